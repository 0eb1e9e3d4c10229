package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"math/rand/v2"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/correlation"
)

const (
	maxItems     = 1000
	itemsAtOnce  = 128 // what one shared pipeline takes
	copiesOfBody = 2   // the items, and what was read of them
)

// submitBatch takes many requests in, each for itself: a bad one does not hurt
// the others. They are committed in shared pipelines.
func (s *Server) submitBatch(w http.ResponseWriter, r *http.Request) error {
	if s.draining.Load() {
		return failure{slug: "draining"}
	}
	if _, err := vet(r.Header); err != nil {
		return err
	}
	key, err := idempotencyKey(r.Header)
	if err != nil {
		return err
	}
	share := memory{server: s}
	defer share.release()
	body, err := s.body(w, r, &share)
	if err != nil {
		return err
	}
	if err := share.grow(r.Context(), min(copiesOfBody*int64(len(body)), s.Inflight-share.held)); err != nil {
		return err
	}
	raw, err := batchItems(r.Header.Get("Content-Type"), body)
	if err != nil {
		return err
	}
	subs, errs := make([]broker.Submission, len(raw)), make([]error, len(raw))
	var good []broker.Submission
	for i := range raw {
		if subs[i], errs[i] = s.batchItem(r, raw[i]); errs[i] == nil {
			good = append(good, subs[i])
		}
	}
	ctx, stop := context.WithTimeout(context.WithoutCancel(r.Context()), 2*submitTimeout)
	defer stop()
	batch, err := s.Broker.OpenBatch(ctx, callOf(r).who.Tenant, key, body, len(raw), good)
	if err != nil {
		return err
	}
	records, replayed := s.submitItems(ctx, batch, key != "", subs, errs)
	answer := api.BatchAnswer{BatchID: batch.ID.String(), Links: s.batchLinks(batch.ID), Items: make([]api.BatchItemAnswer, len(raw))}
	var accepted []correlation.ID
	for i := range raw {
		if errs[i] != nil {
			answer.Refused++
			answer.Items[i] = s.refusedItem(r, errs[i], subs[i].Service)
			continue
		}
		answer.Accepted++
		accepted = append(accepted, records[i].ID)
		answer.Items[i] = api.BatchItemAnswer{StatusCode: http.StatusAccepted, CorrelationID: records[i].ID.String(), Status: api.StatusStatus(records[i].Status), Replayed: replayed[i]}
	}
	if err := s.Broker.CloseBatch(ctx, batch.ID, accepted); err != nil { // it counts as closed after a while
		s.log(r).Debug("close a batch", "error", err)
	}
	w.Header().Set("Location", answer.Links.Self)
	if batch.Replayed {
		w.Header().Set(api.HeaderIdempotencyReplayed, "true")
	}
	prefer := preferences(r.Header)
	prefer.wait = 0 // for a thousand answers
	if applied := prefer.answer(); applied != "" {
		w.Header().Set(api.HeaderPreferenceApplied, applied)
	}
	status := http.StatusAccepted
	if len(accepted) == 0 {
		status = http.StatusOK // a 202 would say that something runs
	}
	s.writeJSON(w, r, status, answer)
	return nil
}

// submitItems submits those without an error, many at once, so that they share
// pipelines. What goes wrong with one is in errs.
func (s *Server) submitItems(ctx context.Context, batch broker.Opened, keyed bool, subs []broker.Submission, errs []error) (records []broker.Record, replayed []bool) {
	records, replayed = make([]broker.Record, len(subs)), make([]bool, len(subs))
	one := func(i int) {
		sub, err := s.intercepted(ctx, subs[i])
		if err == nil {
			records[i], replayed[i], err = s.Broker.Submit(ctx, sub)
		}
		errs[i] = err
	}
	var all sync.WaitGroup
	slots := make(chan struct{}, itemsAtOnce)
	for _, lane := range lanes(subs, errs) {
		for _, i := range lane {
			subs[i].Batch = &broker.Item{Batch: batch.ID, Number: i, Ends: batch.Ends}
			if keyed && subs[i].IdempotencyKey == "" { // a repeat of the call must not submit it again
				subs[i].IdempotencyKey = batch.ID.String() + "." + strconv.Itoa(i)
			}
		}
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			for _, i := range lane {
				one(i)
			}
		})
	}
	all.Wait()
	return records, replayed
}

// lanes are the items without an error, by what may be submitted at once: those with
// one ordering key are accepted in the order of the call.
func lanes(subs []broker.Submission, errs []error) (all [][]int) {
	type key struct{ service, ordering string }
	ordered := map[key]int{}
	for i, sub := range subs {
		if errs[i] != nil {
			continue
		}
		k := key{sub.Service, sub.OrderingKey}
		if lane, known := ordered[k]; known && k.ordering != "" {
			all[lane] = append(all[lane], i)
			continue
		}
		ordered[k] = len(all)
		all = append(all, []int{i})
	}
	return all
}

// refusedItem is the problem that a submit of the item alone had met.
func (s *Server) refusedItem(r *http.Request, err error, service string) api.BatchItemAnswer {
	f := describe(ofItem(s.refused(r, err, service)))
	kind, ok := api.ProblemNamed(f.slug)
	if !ok || f.slug == "internal" {
		kind, _ = api.ProblemNamed("internal")
		s.log(r).Error("an item of a batch failed", "error", f.cause)
	}
	s.told[kind.Slug].Add(1)
	p := kind.New(f.detail)
	p.Detail = itemDetail(p.Detail)
	p.Errors = f.faults
	if f.retryAfter == 0 && kind.Retry {
		f.retryAfter = 1 + rand.IntN(retrySpread)
	}
	return api.BatchItemAnswer{StatusCode: p.Status, Problem: p, RetryAfter: f.retryAfter}
}

// batchItems splits a JSON array, or JSON Lines, into its items. A call that says
// neither is taken by how it begins.
func batchItems(contentType string, body []byte) (items []json.RawMessage, err error) {
	media, _, _ := mime.ParseMediaType(contentType)
	text := bytes.TrimSpace(body)
	if media == "application/json" || media != "application/jsonl" && media != "application/x-ndjson" && bytes.HasPrefix(text, []byte("[")) {
		var ok bool
		if items, ok = itemsOf(text, maxItems); !ok {
			return nil, fail("invalid-request", "The body is no JSON array. Nothing was accepted; send an array of items, or one item a line as application/jsonl.")
		}
	} else {
		for line := range bytes.Lines(text) {
			if line = bytes.TrimSpace(line); len(line) > 0 {
				items = append(items, line)
			}
			if len(items) > maxItems {
				break
			}
		}
	}
	switch {
	case len(items) == 0:
		return nil, fail("invalid-request", "The batch has no items; it must have 1 to %d. Nothing was accepted.", maxItems)
	case len(items) > maxItems:
		return nil, fail("invalid-request", "The batch has more than %d items. Nothing was accepted; send several batches.", maxItems)
	}
	return items, nil
}

func (s *Server) batchLinks(id correlation.ID) api.BatchLinks {
	self := strings.TrimSuffix(s.PublicURL, "/") + "/v1/batches/" + id.String()
	return api.BatchLinks{Self: self, Events: self + "/events", Cancel: self + "/cancel"}
}
