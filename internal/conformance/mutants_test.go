package conformance_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/internal/conformance"
)

// mutants are workers in Python that are broken in one way each, and the duty
// that must tell. old stands in one of the two files once.
var mutants = []struct{ duty, file, old, broken string }{
	{"reply", "duties.py", `"content_type": job[b"content_type"]`, `"content_type": "text/plain"`},
	{"reply", "duties.py", `body = job[b"body"] if`, `body = job[b"body"].upper() if`},
	{"binary", "duties.py", `body = job[b"body"] if`, `body = job[b"body"].decode(errors="replace") if`},
	{"binary", "duties.py", `body = job[b"body"] if`, `body = job[b"body"].strip(b"\xff") if`},
	{"empty", "worker.py", `for _, job in jobs]`, `for _, job in jobs if job[b"body"]]`},
	{"progress", "duties.py", `(1, 2, 3)`, `(2, 1, 3)`},
	{"progress", "worker.py", `lambda **event: send(job, seq=next(seq), **event)`, `lambda **event: send(job, seq=1, **event)`},
	{"partial", "duties.py", `("one", "two", "three")`, `("one", "three")`},
	{"partial", "duties.py", `say(type="partial"`, `say(type="progress"`},
	{"failure", "worker.py", `{"type": "failed", "error": str(e)}`, `{"type": "retry", "error": str(e), "delay": 1}`},
	{"failure", "worker.py", `{"type": "failed", "error": str(e)}`, `{"type": "failed"}`},
	{"retry", "duties.py", `{"type": "retry", "error": "not now", "delay": 1}`, `{"type": "heartbeat"}`},
	{"retry", "duties.py", `{"type": "retry", "error": "not now", "delay": 1}`, `{"type": "failed", "error": "not now"}`},
	{"duplicate", "worker.py", `{"token": job[b"token"], **reply}`, `{"token": job[b"token"].replace(b".2.", b".1."), **reply}`},
	{"heartbeat", "worker.py", `send(job, type="heartbeat")`, `pass`},
	{"heartbeat", "duties.py", `canceled.wait(ask.get("ms", 0) / 1000)`, `canceled.wait(1 if "ms" in ask else 0)`},
	{"cancel", "duties.py", `canceled.wait(ask.get("ms", 0) / 1000)`, `pass`},
	{"cancel", "worker.py", `running.get(m["data"], threading.Event()).set()`, `pass`},
	{"kill", "worker.py", `    threads = [`, `    [r.xack("cc:{%s}:queue:%s" % (tag, service), "workers", e) and r.xdel("cc:{%s}:queue:%s" % (tag, service), e) for tag in ("0", "1.19") for e, _ in r.xrange("cc:{%s}:queue:%s" % (tag, service))]` + "\n    threads = ["},
	{"stall", "duties.py", `canceled.wait(ask.get("ms", 0) / 1000)`, `import os, time; t = time.time(); canceled.wait(ask.get("ms", 0) / 1000); time.time() - t < 5 or os._exit(1)`},
	{"drain", "worker.py", `signal.SIGTERM, lambda *_: stopping.set()`, `signal.SIGTERM, lambda *_: None`},
	{"drain", "worker.py", `signal.SIGTERM, lambda *_: stopping.set()`, `signal.SIGTERM, lambda *_: os._exit(0)`},
}

// TestBrokenWorkersAreFound: each fails at its duty, and at no other of those
// that every worker starts with.
func TestBrokenWorkersAreFound(t *testing.T) {
	t.Parallel()
	h := open(t, "")
	var all sync.WaitGroup
	turns := make(chan struct{}, 6) // the machine starts so many at once
	for i, m := range mutants {
		all.Go(func() {
			turns <- struct{}{}
			defer func() { <-turns }()
			t.Run(m.duty, func(t *testing.T) {
				dir := t.TempDir()
				for _, name := range []string{"worker.py", "duties.py"} {
					raw, err := os.ReadFile(filepath.Join(examples, "python", name))
					if err != nil {
						t.Fatal(err)
					}
					text := string(raw)
					if name == m.file {
						if strings.Count(text, m.old) != 1 {
							t.Fatalf("%s does not have %q once", name, m.old)
						}
						text = strings.Replace(text, m.old, m.broken, 1)
					}
					if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				service := fmt.Sprintf("broken-%d", i)
				by := h.conform(t, conformance.Options{
					Service: service, Start: h.start("%s %s/worker.py %s", h.python, dir, service),
					Patience: 6 * time.Second, Only: []string{"failure", m.duty},
				})
				for _, duty := range []string{"failure", m.duty} {
					want := conformance.Passed
					if duty == m.duty {
						want = conformance.Failed
					}
					if by[duty].Verdict != want {
						t.Errorf("%s where it was %q: %s is %s, want %s", m.broken, m.old, duty, by[duty].Verdict, want)
					}
				}
			})
		})
	}
	all.Wait()
}

// TestPageHasEveryDuty: the page for those who write workers says what each is.
func TestPageHasEveryDuty(t *testing.T) {
	raw, err := os.ReadFile("../../api/worker/README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, duty := range conformance.Duties() {
		if !strings.Contains(string(raw), "`"+duty+"`") {
			t.Errorf("the page does not say what %s is", duty)
		}
	}
}
