package httpapi_test

import (
	"strings"
	"testing"

	"github.com/coatcheck/coatcheck/internal/broker"
)

// TestAFailureIsASentence: workers end their messages as they like, and the
// gateway goes on after them.
func TestAFailureIsASentence(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		for said, want := range map[string]string{
			"no such file": "no such file. That outcome", "Out of space.": "Out of space. That outcome",
			"Why?\n": "Why? That outcome", " ": "The request is failed. That outcome",
		} {
			d := f.submit("x")
			f.send(f.claim(), broker.WorkerReply{Type: "failed", Error: &broker.Error{Message: said}})
			f.get(d.Links.Self + "?wait=5s")
			retry := "POST " + d.Links.Self + "/retry"
			if detail := f.get(d.Links.Reply).problem(t, "reply-failed"); !strings.HasPrefix(detail, want) || !strings.Contains(detail, retry) {
				t.Errorf("%q: %s", said, detail)
			}
		}
	})
}
