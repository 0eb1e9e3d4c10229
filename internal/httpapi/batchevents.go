package httpapi

import (
	"errors"
	"net/http"
	"time"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/sse"
	"github.com/coatcheck/coatcheck/internal/watch"
)

// batchEnd is the id of the last event of a batch.
const batchEnd = "end"

// batchEvents follows a batch: its counts, an event for each outcome, and last
// the outcome of the whole.
func (s *Server) batchEvents(w http.ResponseWriter, r *http.Request) error {
	id, err := s.batchID(r)
	if err != nil {
		return err
	}
	last := r.Header.Get(api.HeaderLastEventID)
	if last == "" {
		if last, err = query(r, "last_event_id"); err != nil {
			return err
		}
	}
	ended := last == batchEnd
	if ended {
		last = ""
	}
	after, ok := parsePosition(last)
	if !ok {
		return fail("invalid-option", "Last-Event-ID is %s; it must be the id of an event of this batch, or left out. The batch is not affected.", quoted(last))
	}
	if s.draining.Load() {
		return failure{slug: "draining"}
	}
	listener := s.Hub.Listen(id)
	defer listener.Close()
	b, err := s.readBatch(r.Context(), id, broker.BatchAsk{After: after, Attach: true})
	if err != nil {
		return err
	}
	if ended && b.Complete {
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	s.streams.Add(1)
	defer s.streams.Add(-1)
	stream := sse.Open(w, http.StatusOK)
	if r.Method == http.MethodHead {
		return stream.Flush()
	}
	if err := s.followBatch(r, stream, listener, b, after); err != nil {
		s.log(r).Debug("a stream ended early", "error", err)
	}
	return nil
}

func (s *Server) followBatch(r *http.Request, stream *sse.Stream, listener *watch.Listener, b broker.Batch, at map[int]int) error {
	heartbeat := time.NewTicker(sse.HeartbeatEvery)
	defer heartbeat.Stop()
	shown := ""
	for {
		for _, o := range b.News {
			at[o.Partition()]++
			item := api.BatchItemOutcome{Number: o.Number, CorrelationID: o.ID.String(), Status: api.StatusStatus(o.Status), FinishedAt: api.Time(o.At)}
			if err := sendAs(stream, "item", positionText(at), item); err != nil {
				return err
			}
		}
		if b.Complete {
			return errors.Join(sendAs(stream, "outcome", batchEnd, s.batchDocument(b)), stream.Flush())
		}
		if tag := batchTag(b); tag != shown {
			shown = tag
			if err := sendAs(stream, "status", "", s.batchDocument(b)); err != nil {
				return err
			}
		}
		if err := stream.Flush(); err != nil {
			return err
		}
		select {
		case <-listener.Again():
		case <-time.After(batchReread):
		case <-heartbeat.C:
			if err := stream.Heartbeat(); err != nil {
				return err
			}
		case <-r.Context().Done():
			return r.Context().Err()
		case <-s.Hub.Draining():
			return nil
		}
		newer, err := s.Broker.Batch(r.Context(), b.ID, broker.BatchAsk{After: at, Attach: true})
		switch {
		case errors.Is(err, broker.ErrUnavailable):
			b.News = nil // the next look brings them
		case err != nil:
			return err
		default:
			b = newer
		}
	}
}
