package httpapi

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/correlation"
)

// batchReread is how often a waiter looks at a batch without a hint: those can
// be lost.
const batchReread = 5 * time.Second

// batchID reads the ID of the path; see id.
func (s *Server) batchID(r *http.Request) (correlation.ID, error) {
	id, err := pathID(r)
	if err == nil {
		err = s.Broker.VerifyBatch(id, callOf(r).who.Tenant)
	}
	if err != nil {
		return id, failure{slug: "not-found", cause: err, detail: "This ID of a batch was never issued to you. Check that it is complete, and that the API key is of the tenant that submitted."}
	}
	return id, nil
}

// readBatch reads a batch that was issued.
func (s *Server) readBatch(ctx context.Context, id correlation.ID, ask broker.BatchAsk) (broker.Batch, error) {
	b, err := s.Broker.Batch(ctx, id, ask)
	if errors.Is(err, broker.ErrGone) {
		err = failure{slug: "gone", cause: err, detail: "The batch was accepted once and has been forgotten, as its requests are."}
	}
	return b, err
}

// batch counts the outcomes of a batch; with wait it rests until the counts differ
// from those presented, or with none until it is complete.
func (s *Server) batch(w http.ResponseWriter, r *http.Request) error {
	id, err := s.batchID(r)
	if err != nil {
		return err
	}
	prefer, err := waitOf(r)
	if err != nil {
		return err
	}
	listener := s.Hub.Listen(id)
	defer listener.Close()
	s.waiting.Add(1)
	defer s.waiting.Add(-1)
	known, rests := strings.Join(r.Header.Values("If-None-Match"), ","), prefer.wait > 0
	end := time.After(prefer.wait)
	for {
		b, err := s.readBatch(r.Context(), id, broker.BatchAsk{Attach: prefer.wait > 0})
		if err != nil {
			return err
		}
		enough := b.Complete || known != "" && !matches(known, batchTag(b))
		if !enough && prefer.wait > 0 {
			select {
			case <-listener.Again():
				continue
			case <-time.After(batchReread):
				continue
			case <-end:
			case <-s.Hub.Draining():
			case <-r.Context().Done():
			}
			prefer.wait = 0 // look once more, and answer
			continue
		}
		h := w.Header()
		h.Set("ETag", batchTag(b))
		h.Set("Cache-Control", "private, no-cache")
		h.Set("Vary", "Authorization, Prefer")
		if prefer.applied != "" {
			h.Set(api.HeaderPreferenceApplied, prefer.applied)
		}
		if !rests && matches(known, batchTag(b)) { // after a rest the counts come all the same, as of a request
			w.WriteHeader(http.StatusNotModified)
			return nil
		}
		s.writeJSON(w, r, http.StatusOK, s.batchDocument(b))
		return nil
	}
}

func batchTag(b broker.Batch) string {
	return fmt.Sprintf(`W/"%d.%d.%t"`, b.Accepted, b.Open, b.Complete)
}

func (s *Server) batchDocument(b broker.Batch) api.Batch {
	return api.Batch{
		BatchID: b.ID.String(), CreatedAt: api.Time(b.Created), Complete: b.Complete, Items: b.Items, Accepted: b.Accepted, Open: b.Open,
		Succeeded: b.Outcomes[broker.Succeeded], Failed: b.Outcomes[broker.Failed],
		TimedOut: b.Outcomes[broker.TimedOut], Canceled: b.Outcomes[broker.Canceled], Links: s.batchLinks(b.ID),
	}
}

// cancelBatch cancels what is open.
func (s *Server) cancelBatch(w http.ResponseWriter, r *http.Request) error {
	id, err := s.batchID(r)
	if err != nil {
		return err
	}
	b, err := s.readBatch(r.Context(), id, broker.BatchAsk{Open: true})
	if err != nil {
		return err
	}
	var (
		all     sync.WaitGroup
		mu      sync.Mutex // guards trouble
		trouble error
		slots   = make(chan struct{}, 32)
	)
	ctx, stop := context.WithTimeout(context.WithoutCancel(r.Context()), 2*submitTimeout)
	defer stop()
	for _, item := range b.Waiting {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			if _, err := s.Broker.Cancel(ctx, item); err != nil && !errors.Is(err, broker.ErrTerminal) && !errors.Is(err, broker.ErrGone) {
				mu.Lock()
				trouble = err
				mu.Unlock()
			}
		})
	}
	all.Wait()
	if trouble != nil {
		return trouble
	}
	if b, err = s.readBatch(r.Context(), id, broker.BatchAsk{}); err != nil {
		return err
	}
	s.writeJSON(w, r, http.StatusOK, s.batchDocument(b))
	return nil
}

// position of a reader of a batch: how many outcomes of each partition it has, as
// "partition.count" joined by commas. There is no order over partitions, so one
// number can't say it.
func positionText(at map[int]int) string {
	var parts []string
	for _, p := range slices.Sorted(maps.Keys(at)) {
		if at[p] > 0 {
			parts = append(parts, fmt.Sprintf("%d.%d", p, at[p]))
		}
	}
	return strings.Join(parts, ",")
}

func parsePosition(text string) (map[int]int, bool) {
	at := map[int]int{}
	if text == "" {
		return at, true
	}
	for part := range strings.SplitSeq(text, ",") {
		p, n, found := strings.Cut(part, ".")
		number, err := strconv.Atoi(p)
		count, bad := strconv.Atoi(n)
		if !found || err != nil || bad != nil || number < 0 || number > correlation.MaxPartitions || count < 0 || count > maxItems {
			return nil, false
		}
		at[number] = count
	}
	return at, true
}
