package linear_test

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// state is what a request is at one instant; zero: nobody accepted it yet.
type state struct{ id, status, reply string }

func (s state) open() bool { return s.status == "queued" || s.status == "running" }

func (s state) ended(status, reply string) state {
	if s.open() {
		s.status, s.reply = status, reply
	}
	return s
}

// asked is an operation on the request that has a key.
type asked struct {
	key  string
	do   string // submit, claim, poll, cancel, reply, clock
	body string // of a reply
}

// answered is what came of it. The zero value is nothing that anybody heard of: then it
// has its effect at any time, or never, which is the same as after all others.
type answered struct {
	verdict string // accepted, refused, shown, gone, canceled, ended
	state          // that was shown
}

// model is what one request is, whichever gateway is asked: each operation has its
// effect at one instant between its call and its answer. A claim is seen by who polls
// after it. A reply and the clock have theirs at some time after Redis took the one, or
// the time of the other had come: whichever is first. A submit accepts, or finds what was
// accepted, and then looks at it: that look is a poll of its own.
var model = porcupine.Model{
	Partition: func(history []porcupine.Operation) (parts [][]porcupine.Operation) {
		at := map[string]int{}
		for _, o := range history {
			key := o.Input.(asked).key
			i, known := at[key]
			if !known {
				i = len(parts)
				at[key], parts = i, append(parts, nil)
			}
			parts[i] = append(parts[i], o)
		}
		return parts
	},
	Init: func() any { return state{} },
	Step: func(s, in, out any) (bool, any) { return step(s.(state), in.(asked), out.(answered)) },
	DescribeOperation: func(in, out any) string {
		a, o := in.(asked), out.(answered)
		return strings.TrimSpace(fmt.Sprintf("%s %s → %s %s %s", a.do, a.body, o.verdict, o.status, o.reply))
	},
	DescribeState: func(s any) string { return fmt.Sprintf("%+v", s) },
}

func step(s state, in asked, out answered) (bool, any) {
	switch in.do {
	case "submit":
		if out.verdict == "refused" {
			return true, s
		}
		if s.status == "" {
			s = state{status: "queued"}
		}
		if out.verdict == "accepted" {
			if s.id == "" { // accepted by a submit whose answer nobody heard, or just now
				s.id = out.id
			}
			return s.id == out.id, s
		}
		return true, s
	case "claim":
		ok := s.status == "queued"
		s.status = "running"
		return ok, s
	case "poll":
		if out.verdict == "gone" {
			return s.status == "", s
		}
		return s == out.state, s
	case "cancel":
		ok := true
		switch out.verdict {
		case "canceled": // again is fine: the answer of the first may have been lost
			ok = s.open() || s.status == "canceled"
		case "ended":
			ok = s.status != "" && !s.open()
		case "gone":
			return s.status == "", s
		}
		return ok, s.ended("canceled", "")
	case "reply":
		return s.status != "" && s.status != "queued", s.ended("succeeded", in.body)
	case "clock":
		return true, s.ended("timed_out", "")
	}
	return false, s
}

// never is when something returns of which nobody hears.
const never = math.MaxInt64

// at is an operation that took from one ms to another; 0 for never.
func at(client int, from, to int64, in asked, out answered) porcupine.Operation {
	if to == 0 {
		to = int64(never / time.Millisecond)
	}
	return porcupine.Operation{ClientId: client, Input: in, Call: from * int64(time.Millisecond), Output: out, Return: to * int64(time.Millisecond)}
}
