#!/bin/sh
# What a conformance run asks of a worker, for
#   coatcheck worker exec SERVICE --concurrency 4 -- sh duties.sh
# Put your own work in its place. It has no partial replies: the reply is one piece.
body=$(mktemp) && trap 'rm -f "$body"' EXIT && cat >"$body"
field() { sed -n "s/.*\"$1\":\"\{0,1\}\([^,\"}]*\).*/\1/p" "$body"; }
case $(head -c 6 "$body") in '{"do":') do=$(field do) ;; *) do=echo ;; esac
case $do in
  echo) cat "$body" && exit ;;
  progress) for step in 1 2 3; do echo "{\"step\":$step}" >&3; done ;;
  partial) echo unsupported >&2 && exit 1 ;;
  fail) field reason >&2 && exit 1 ;;
  retry) [ "$COATCHECK_ATTEMPT" -gt 1 ] || exit 75 ;;
  sleep) ms=$(field ms) && sleep "$((ms / 1000)).$(printf %03d "$((ms % 1000))")" ;;
esac
printf 'attempt %s' "$COATCHECK_ATTEMPT"
