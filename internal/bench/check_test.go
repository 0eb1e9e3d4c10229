package bench

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestChecks(t *testing.T) {
	tally := newTally(SSE)
	tally.window(time.Time{}, time.Time{})
	at := time.Now()
	for i := 1; i <= 100; i++ {
		tally.accept(at, at.Add(time.Millisecond))
		tally.reply(at, at.Add(time.Duration(i)*time.Millisecond))
	}
	r := Result{Rate: 1234.5, Requests: 100, Accept: *latencyOf(tally.accepts), Reply: latencyOf(tally.replies), Counts: Counts{Lost: 2}}
	for text, met := range map[string]bool{
		"p50<51ms": true, "p50<49ms": false, "p99 <= 100ms": true, "p99.9>99ms": true, "max<1s": true, "mean>50ms": true, "mean>51ms": false,
		"accept_p99<2ms": true, "accept_max>2ms": false,
		"rate>1000": true, "rate>=1234.5": true, "rate<1000": false,
		"lost=0": false, "lost=2": true, "lost<=2": true, "doubled=0": true, "requests>=100": true, "out_of_order=0": true,
	} {
		checks, err := ParseChecks([]string{text})
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		verdicts, all := Judge(&r, checks)
		if all != met || len(verdicts) != 1 || verdicts[0].Met != met {
			t.Errorf("%s: %+v, want %v", text, verdicts, met)
		}
		var out bytes.Buffer
		if err := WriteVerdicts(&out, verdicts); err != nil {
			t.Fatal(err)
		}
		if mark := map[bool]string{true: "✓ ", false: "✗ "}[met]; !strings.HasPrefix(out.String(), mark+strings.ReplaceAll(text, " ", "")+" (") {
			t.Errorf("%s is shown as %q", text, out.String())
		}
	}
}

// No latency at all must not pass for a short one.
func TestNothingMeasuredMeetsNoLatency(t *testing.T) {
	checks, err := ParseChecks([]string{"p99<1s"})
	if err != nil {
		t.Fatal(err)
	}
	tally := newTally(Wait)
	if _, met := Judge(&Result{Accept: *latencyOf(tally.accepts), Reply: latencyOf(tally.replies)}, checks); met {
		t.Error("met without a measurement")
	}
}

func TestChecksThatCannotBeRead(t *testing.T) {
	for _, text := range []string{"", "p99", "p99<", "p99<50", "p99<fast", "p99<-1s", "p0<1s", "p101<1s", "p<1s", "lost=none", "lost=-1", "lost=NaN", "speed>1", "accept_lost=0", "<5", "p99!1s"} {
		if _, err := ParseChecks([]string{text}); !errors.Is(err, ErrCheck) {
			t.Errorf("%q: %v, want ErrCheck", text, err)
		}
	}
}
