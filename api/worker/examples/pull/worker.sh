#!/bin/sh
# A worker by curl (7.84 or newer) alone: sh worker.sh SERVICE, with a gateway in COATCHECK_URL
# and a key with the scope work in COATCHECK_API_KEY where it has keys.
url=${COATCHECK_URL:-http://127.0.0.1:8080}/v1 service=$1 stopping=
dir=$(mktemp -d) && cd "$dir" || exit
trap stopping=1 TERM INT
trap 'rm -rf "$dir"' EXIT

call() { curl -s ${COATCHECK_API_KEY:+-H "Authorization: Bearer $COATCHECK_API_KEY"} -X POST "$@"; }
# reply TYPE CONTENT-TYPE says what is on standard input.
reply() { call -o /dev/null -w '%{http_code}' "$url/claims/$token/replies?type=$1" -H "Content-Type: $2" --data-binary @-; }

# work does what a conformance run asks for; put your own in its place.
field() { sed -n "s/.*\"$1\":\"\{0,1\}\([^,\"}]*\).*/\1/p" body; }
work() {
  case $(head -c 6 body) in '{"do":') do=$(field do) ;; *) do=echo ;; esac
  case $do in
    echo) reply final "$type" <body && return ;;
    progress) for step in 1 2 3; do echo "{\"step\":$step}" | reply progress application/json; done ;;
    partial) for part in one two three; do printf %s $part | reply partial text/plain; done ;;
    fail) reply "failed&error=$(field reason)" </dev/null && return ;;
    retry) [ "$attempt" -gt 1 ] || { reply 'retry&delay=0' </dev/null && return; } ;;
    sleep) ms=$(field ms); sleep "$((ms / 1000)).$(printf %03d "$((ms % 1000))")" & trap "kill $!; exit" TERM; wait $! ;;
  esac
  printf 'attempt %s' "$attempt" | reply final text/plain
}

# beat keeps the claim while a process works, and ends that once nobody wants its reply.
beat() {
  while sleep "$((lease / 3 > 0 ? lease / 3 : 1))" && kill -0 "$1"; do
    [ "$(reply heartbeat text/plain </dev/null)" -lt 400 ] || kill "$1"
  done 2>/dev/null
}

while [ ! "$stopping" ]; do
  : >body # curl leaves it alone where nothing comes
  set -- $(call -o body "$url/services/$service/claims?wait=1s" -H 'Accept: application/octet-stream' \
    -w '%header{coatcheck-claim} %header{coatcheck-attempt} %header{coatcheck-lease} %header{coatcheck-content-type}')
  [ "$1" ] || { sleep 0.2 && continue; }
  token=$1 attempt=$2 lease=${3%.*}; shift 3; type=$*
  work >replied & working=$!
  beat $working & beating=$!
  until wait $working || ! kill -0 $working 2>/dev/null; do :; done # a signal interrupts a wait
  kill $beating 2>/dev/null
done
