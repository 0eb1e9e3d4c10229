package httpapi

import (
	"net/http"
	"strconv"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/broker"
)

// How many replies one page has, and after how many bytes of them it ends.
const (
	defaultPage = 100
	largestPage = 256
	pageBytes   = 1 << 20
)

// replies lists the progress and partial replies of a request that are kept,
// oldest first, by pages; behind the last, the final one.
func (s *Server) replies(w http.ResponseWriter, r *http.Request) error {
	id, err := s.id(r)
	if err != nil {
		return err
	}
	after, err := whole(r, "after", 0, 0, 1e9-1)
	if err != nil {
		return err
	}
	limit, err := whole(r, "limit", defaultPage, 1, largestPage)
	if err != nil {
		return err
	}
	record, events, first, err := s.Broker.Replies(r.Context(), id, after, limit)
	if err != nil {
		return err
	}
	hide, err := s.redactor(r, record.Service)
	if err != nil {
		return err
	}
	last := record.Events
	if record.Status.Terminal() {
		last-- // the outcome itself is in the status document
	}
	page := api.ReplyPage{
		CorrelationID: id.String(), Status: api.StatusStatus(record.Status), Last: last,
		After: min(after, last), Replies: []api.Event{},
	}
	if first == 0 {
		first = last + 1 // none is kept
	}
	if first > after+1 {
		page.Reset, page.After = api.Reset{First: first, Last: record.Events}, first-1
	}
	for size, i := 0, 0; i < len(events) && (i == 0 || size+len(events[i].Body) <= pageBytes); i++ {
		e := events[i]
		size += len(e.Body)
		page.Replies = append(page.Replies, hide.event(broker.EventDocument(e)))
		page.After = e.Number
	}
	page.More = page.After < last
	if record.Status.Terminal() && !page.More {
		d := broker.Document(record, s.PublicURL)
		hide.status(&d)
		page.Final, page.Error = d.Reply, d.Error
	}
	s.writeJSON(w, r, http.StatusOK, page)
	return nil
}

// whole reads a query parameter that is a whole number.
func whole(r *http.Request, name string, otherwise, least, most int) (int, error) {
	text, err := query(r, name)
	if err != nil || text == "" {
		return otherwise, err
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < least || n > most {
		return 0, fail("invalid-option", "%s is %s; it must be a whole number from %d to %d. The request is not affected.", name, quoted(text), least, most)
	}
	return n, nil
}
