package faults_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/api/worker"
	"github.com/coatcheck/coatcheck/internal/fleet"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

const (
	holds = "a request that kills its worker comes to one max_attempts times and fails; others of its service have their replies, other services notice nothing; " + recovers

	deadly = "COATCHECK_FAULTS_CRASHES" // names the file in which workers note what they begin
	lives  = 3                          // of a request that kills its worker
)

// crashing has worker processes that are killed by what they are given, and that are
// started again and again, among requests that do no harm.
//
// Planted: no look at max_attempts where a lease lapses (running, attempt 35).
func crashing(r *round) {
	h := open(r, redistest.Start(r))
	notes := filepath.Join(r.TempDir(), "begun")
	var loops []*fleet.Process
	for range 2 {
		loops = append(loops, fleet.CrashLoop(r, h.redis.URL, deadly+"="+notes))
	}
	h.announced("frail")
	l := h.load()
	begun, before := time.Now(), h.lines()
	var (
		clients  sync.WaitGroup
		killers  = make([]api.Status, 40)
		harmless = make([]api.Status, 400)
	)
	clients.Go(func() {
		for n := range harmless {
			harmless[n] = h.submit(h.gates[n%2], "frail", fmt.Sprint("harmless ", n))
			<-time.After(r.pause(50 * time.Millisecond)) // among those that kill
		}
	})
	for n := range killers {
		killers[n] = h.submit(h.gates[n%2], "frail", fmt.Sprint("deadly ", n), "Coatcheck-Max-Attempts", fmt.Sprint(lives))
		<-time.After(r.pause(500 * time.Millisecond)) // so that workers come up between them
	}
	clients.Wait()
	for _, s := range killers {
		if got := h.ends(s, "failed"); got.Reason != "max_attempts" || got.Attempt != lives {
			h.Errorf("%s: %s in attempt %d", got.CorrelationID, got.Reason, got.Attempt)
		}
	}
	most := 0
	for n, s := range harmless {
		got := h.ends(s, "succeeded")
		if reply := h.get(h.gates[n%2], s.Links.Reply).body; reply != fmt.Sprint("harmless ", n) {
			h.Errorf("%s: replied %q", s.CorrelationID, reply)
		}
		most = max(most, got.Attempt)
	}
	r.within("flowed again after", h.flows(), heal)
	h.quiet(begun, before)
	l.audit()
	h.clean("frail")
	crashes := 0
	for _, p := range loops {
		crashes += p.Ends()
	}
	text, err := os.ReadFile(notes)
	if err != nil {
		h.Fatal(err)
	}
	times := map[string]int{}
	for line := range strings.Lines(string(text)) {
		times[strings.TrimSpace(line)]++
	}
	for n := range killers {
		if got := times[fmt.Sprint("deadly ", n)]; got > lives || got == 0 {
			h.Errorf("deadly %d came to a worker %d times, want %d at most", n, got, lives)
		}
	}
	r.finds("%d crashes by %d requests, each in %d attempts; %d harmless ones in %d at most", crashes, len(killers), lives, len(harmless), most)
}

// frail is a worker process that dies of some requests.
func frail(redisURL string) error {
	notes, err := os.OpenFile(os.Getenv(deadly), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer notes.Close()
	w := worker.New(redisURL, worker.Logger(slog.New(slog.DiscardHandler)))
	w.Handle("frail", func(_ context.Context, r *worker.Request) (worker.Reply, error) {
		if strings.HasPrefix(string(r.Body), "deadly") {
			fmt.Fprintf(notes, "%s\n", r.Body)
			os.Exit(1)
		}
		return worker.Reply{ContentType: r.ContentType, Body: r.Body}, nil
	})
	return w.Run(context.Background())
}
