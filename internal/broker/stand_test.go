package broker_test

import (
	"context"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/correlation"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// kindStep is what happens to one service: N requests of a kind are submitted, or
// claimed and answered; or something else.
type kindStep struct {
	Do, Service, Tenant string
	Priority            broker.Priority
	N                   int
	Keyed, Start        bool
}

var wayServices = map[string]broker.ServiceConfig{"echo": {}, "limited": {Concurrency: 3}, "small": {MaxQueued: 7}}

func drawKindStep() *rapid.Generator[kindStep] {
	return rapid.Custom(func(t *rapid.T) kindStep {
		return kindStep{
			Do:       rapid.SampledFrom([]string{"submit", "submit", "submit", "answer", "answer", "regulate", "pause", "resume", "cancel", "pass"}).Draw(t, "do"),
			Service:  rapid.SampledFrom([]string{"echo", "echo", "limited", "small"}).Draw(t, "service"),
			Tenant:   rapid.SampledFrom([]string{broker.DefaultTenant, broker.DefaultTenant, "acme", "other"}).Draw(t, "tenant"),
			Priority: rapid.SampledFrom([]broker.Priority{"", "", broker.PriorityHigh, broker.PriorityLow}).Draw(t, "priority"),
			N:        rapid.SampledFrom([]int{1, 2, 3, 8, 70}).Draw(t, "n"), // FIRST_LIMIT is 64
			Keyed:    rapid.Bool().Draw(t, "keyed"),
			Start:    rapid.Bool().Draw(t, "start"),
		}
	})
}

// TestDirectStandsInLineAsSubmit: whatever happens, the same is in Redis whichever of the
// two scripts took the requests in: their records and places, the lines, limits and counts.
func TestDirectStandsInLineAsSubmit(outer *testing.T) {
	rapid.Check(outer, func(t *rapid.T) {
		history := rapid.SliceOfN(drawKindStep(), 1, 25).Draw(t, "history")
		stored := map[bool]string{}
		for _, generally := range []bool{true, false} {
			synctest.Test(outer, func(bubble *testing.T) { stored[generally] = byOneWay(bubble, history, generally) })
		}
		if stored[true] != stored[false] {
			t.Fatalf("by submit.lua alone:\n%s\nby direct.lua alone:\n%s", without(stored[true], stored[false]), without(stored[false], stored[true]))
		}
	})
}

// without is the lines of one text that another does not have.
func without(text, other string) string {
	lines := strings.Split(other, "\n")
	return strings.Join(slices.DeleteFunc(strings.Split(text, "\n"), func(line string) bool { return slices.Contains(lines, line) }), "\n")
}

// byOneWay is what there is in Redis after a history, and what was answered before.
func byOneWay(t *testing.T, history []kindStep, generally bool) string {
	_, dial := redistest.Pipe(t)
	b := open(t, &redistest.Redis{URL: "redis://pipe:1"}, func(o *broker.Options) {
		o.Dial, o.Services = dial, wayServices
	})
	defer b.Close()
	var said []string
	var ids []correlation.ID
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	for i, s := range history {
		time.Sleep(time.Millisecond)
		switch s.Do {
		case "submit":
			all := make([]broker.Submission, s.N)
			for j := range all {
				all[j] = broker.Submission{Tenant: s.Tenant, Service: s.Service, Priority: s.Priority, ContentType: "text/plain", Body: fmt.Append(nil, i, j)}
				if s.Keyed && j%2 == 0 {
					all[j].IdempotencyKey, all[j].Body = fmt.Sprint(j), fmt.Append(nil, i%2)
					all[j].Callback = &broker.Callback{URL: "https://192.0.2.1/hook", Events: []string{"succeeded"}}
				}
				if s.Start {
					all[j].StartTimeout = 20 * time.Second
				}
			}
			more, answers, err := broker.SubmitTogether(t.Context(), b, generally, all...)
			must(err)
			ids = append(ids, more...)
			for _, a := range answers {
				said = append(said, fmt.Sprint("said: ", i, a))
			}
		case "answer":
			held, err := b.Claim(t.Context(), "w1", []string{s.Service}, s.N, time.Millisecond)
			must(err)
			for _, d := range held {
				send(t, b, d, broker.WorkerReply{Type: "final", Body: []byte("reply")})
			}
			for more := true; more; { // whoever is due with a reply unsettled stays where it is
				_, more, err = b.Settle(t.Context(), 0)
				must(err)
			}
		case "regulate":
			regulate(t, b, s.Service)
		case "pause":
			must(b.Pause(t.Context(), s.Service))
		case "resume":
			must(b.Resume(t.Context(), s.Service))
		case "cancel":
			for j := 0; j < len(ids); j += 1 + 5*s.N {
				_, _ = b.Cancel(t.Context(), ids[j]) // it may have its outcome, or never have been
			}
		case "pass":
			time.Sleep(6 * time.Second)
			_, err := b.Decide(t.Context(), 0)
			must(err)
		}
	}
	return oneWay(t, dial, ids, said)
}

var (
	inClocks = regexp.MustCompile(`^cc:\{0\}:clocks \S+ \d+ (\d+) \d+ [a-z]*(#.*)@\d+$`)
	inDue    = regexp.MustCompile(`^(cc:\{0\}:due \S+ )(#\d+#)@`)
	isOpen   = regexp.MustCompile(`^cc:\{0\}:listing:open:\S* \S+ (#\d+#)@`)
)

// oneWay is everything, with each who waits together written as a place in due.
func oneWay(t *testing.T, dial func(context.Context, string, string) (net.Conn, error), ids []correlation.ID, said []string) string {
	var names []string
	for i, id := range ids {
		names = append(names, id.String(), fmt.Sprintf("#%d#", i))
	}
	lines := strings.Split(everything(t, dial, names, nil), "\n")
	open, due := map[string]bool{}, map[string]bool{}
	for _, line := range lines {
		if m := isOpen.FindStringSubmatch(line); m != nil {
			open[m[1]] = true
		}
		if m := inDue.FindStringSubmatch(line); m != nil {
			due[m[2]] = true
		}
	}
	named := strings.NewReplacer(names...)
	for _, s := range said {
		lines = append(lines, named.Replace(s))
	}
	for _, line := range slices.Clone(lines) {
		if m := inClocks.FindStringSubmatch(line); m != nil {
			for _, id := range strings.Fields(m[2]) {
				if open[id] && !due[id] {
					lines = append(lines, fmt.Sprintf("cc:{0}:due -1ns %s@%s", id, m[1]))
				}
			}
		}
	}
	lines = slices.DeleteFunc(lines, func(line string) bool { return inClocks.MatchString(line) })
	together := regexp.MustCompile(`( plan=.* )(\w*?)d( \d+ \d+)$`)
	for i, line := range lines {
		if m := together.FindStringSubmatch(line); m != nil {
			events := m[2]
			if events == "" {
				events = "-"
			}
			lines[i] = strings.Replace(line, m[0], m[1]+events+m[3], 1)
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
