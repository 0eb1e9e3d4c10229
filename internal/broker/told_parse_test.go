package broker

import (
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/internal/correlation"
)

// A message that can't be read wakes those that stand before what is wrong with it.
func TestParseWakes(t *testing.T) {
	a := correlation.Keyring{correlation.NewKey()}.Mint(time.Now(), 0, "").String()
	outcome := ":5 1 6 7 - 2 succeeded 200 - 1 0 0 0 0 4\nw: b\n"
	for message, want := range map[string]string{
		"":                      "",
		a:                       "h",
		a + " " + a:             "hh",
		a + outcome:             "o",
		a + outcome + " " + a:   "oh",
		a + " " + a + outcome:   "ho",
		a + outcome + " x " + a: "oh",
		a + ":5 1 6\nrest " + a: "h",
		a + ":5 1 6 7 - 2 succeeded 200 - 1 0 0 0 0 9\nw: b\n": "h",
		"no ID " + a: "h",
	} {
		got := ""
		for _, w := range parseWakes(message) {
			kind := "h"
			if w.Outcome != nil {
				kind = "o"
				if w.Outcome.reply != ": b\n" || w.Outcome.worker != "w" || w.Outcome.reason != "" || !w.Outcome.started.IsZero() {
					t.Errorf("%q: %+v", message, w.Outcome)
				}
			}
			got += kind
		}
		if got != want {
			t.Errorf("%q is %q, want %q", message, got, want)
		}
	}
}

// An outcome fits the record that was seen open where that stood, and no other.
func TestEndedFits(t *testing.T) {
	queued := time.UnixMilli(5).UTC()
	seen := Record{Status: Running, Attempt: 1, Queued: queued}
	o := &Outcome{status: Succeeded, attempt: 1, queued: queued}
	if r, ok := seen.Ended(o); !ok || r.Status != Succeeded || r.Events != 1 {
		t.Errorf("it does not fit: %+v", r)
	}
	for name, change := range map[string]func(*Record){
		"over":      func(r *Record) { r.Status = Canceled },
		"attempt":   func(r *Record) { r.Attempt = 2 },
		"waits":     func(r *Record) { r.Queued = time.Time{} },
		"scheduled": func(r *Record) { r.Release = queued },
		"scatter":   func(r *Record) { r.Legs = []Leg{} },
		"shared":    func(r *Record) { r.Cache = CacheShared },
	} {
		other := seen
		change(&other)
		if _, ok := other.Ended(o); ok {
			t.Errorf("%s: it fits", name)
		}
	}
}

func FuzzParseWakes(f *testing.F) {
	f.Add("00000000-0000-8000-8000-000000000000:5 1 6 7 - 2 succeeded 200 - 1 0 0 0 0 4\nw: b\n x")
	f.Fuzz(func(_ *testing.T, message string) { parseWakes(message) })
}
