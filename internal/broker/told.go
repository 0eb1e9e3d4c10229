package broker

import (
	"strings"
	"time"

	"github.com/coatcheck/coatcheck/internal/correlation"
)

// Wake says that something may have happened to a request. Outcome is nil where
// nothing more is said: the record has to be read.
type Wake struct {
	ID      correlation.ID
	Outcome *Outcome
}

// Outcome is how a request ended, as the script that stored it says. It makes a record
// that was read open into the one that a read would bring now; see Record.Ended.
type Outcome struct {
	status          Status
	attempt, seq    int
	queued, started time.Time
	worker          string
	ending
}

// ending is what a record has only once it is terminal.
type ending struct {
	finished              time.Time
	retention             time.Duration
	reason, code, message string
	rtype, rstatus        string
	headers               map[string]string // of the reply
	size                  int
	reply                 string // "" where it is too large
}

// Ended is r, which was open, with its outcome. It is false where r stood elsewhere
// when the outcome came: then it must be read again.
func (r Record) Ended(o *Outcome) (Record, bool) {
	if r.Status.Terminal() || r.Attempt != o.attempt || !r.Queued.Equal(o.queued) || !r.Release.IsZero() || r.Legs != nil || r.Cache != "" {
		return Record{}, false
	}
	r.Status, r.Events, r.Started, r.Worker, r.Rank = o.status, o.seq, o.started, o.worker, 0
	r.end(o.ending)
	return r, true
}

// Size is that of the reply, in bytes.
func (o *Outcome) Size() int { return o.size }

// Lasts tells that, while the request is young, a read brings nothing but this outcome:
// what failed may be redriven, and what was canceled may have been deleted.
func (o *Outcome) Lasts() bool { return o.status == Succeeded && o.retention >= 2*Young }

// The parts of what told in outcome.lua says, behind the ID.
const (
	toldQueued = iota
	toldAttempt
	toldFinished
	toldRetention
	toldStarted
	toldSeq
	toldStatus
	toldReplyStatus
	toldReason
	toldWorker // this and the others are lengths
	toldCode
	toldMessage
	toldReplyType
	toldReplyHeaders
	toldReply
	toldParts
)

// parseWakes reads a message: IDs separated by spaces, and behind one, after a colon,
// its outcome. What can't be read is left out: hints may be lost.
func parseWakes(message string) (wakes []Wake) {
	for message != "" {
		text, rest := message, ""
		at := strings.IndexAny(message, " :")
		if at >= 0 {
			text, rest = message[:at], message[at+1:]
		}
		w := Wake{}
		if at >= 0 && message[at] == ':' {
			if w.Outcome, rest = parseOutcome(rest); w.Outcome == nil {
				rest = ""
			}
		}
		var err error
		if w.ID, err = correlation.Parse(text); err == nil {
			wakes = append(wakes, w)
		}
		message = rest
	}
	return wakes
}

// parseOutcome returns nil where it is none, else what comes behind it.
func parseOutcome(text string) (o *Outcome, rest string) {
	head, rest, _ := strings.Cut(text, "\n")
	f := strings.Fields(head)
	if len(f) != toldParts {
		return nil, ""
	}
	var texts [toldParts]string
	for i := toldWorker; i < toldParts; i++ {
		n := int(number(f[i]))
		if n < 0 || n > len(rest) {
			return nil, ""
		}
		texts[i], rest = rest[:n], rest[n:]
	}
	for _, i := range []int{toldStarted, toldReplyStatus, toldReason} {
		if f[i] == "-" {
			f[i] = ""
		}
	}
	return &Outcome{
		status: Status(f[toldStatus]), attempt: int(number(f[toldAttempt])), seq: int(number(f[toldSeq])),
		queued: millis(f[toldQueued]), started: millis(f[toldStarted]), worker: validText(texts[toldWorker]),
		ending: ending{
			finished: millis(f[toldFinished]), retention: msec(f[toldRetention]),
			reason: f[toldReason], code: texts[toldCode], message: texts[toldMessage],
			rtype: texts[toldReplyType], rstatus: f[toldReplyStatus], headers: decodeHeaders([]byte(texts[toldReplyHeaders])),
			size: len(texts[toldReply]), reply: texts[toldReply],
		},
	}, strings.TrimPrefix(rest, " ")
}
