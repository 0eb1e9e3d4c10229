package httpapi

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/correlation"
)

const (
	deadPage  = 100    // dead letters on a page, where none says otherwise
	deadMost  = 1000   // on one at most
	purgeMost = 10_000 // of one call: it answers within seconds
)

// deadLetters lists the tenant's, newest first.
func (s *Server) deadLetters(w http.ResponseWriter, r *http.Request) error {
	filter, err := s.deadFilter(r, "cursor", "limit")
	if err != nil {
		return err
	}
	most, err := deadLimit(r)
	if err != nil {
		return err
	}
	cursor, err := query(r, "cursor")
	if err != nil {
		return err
	}
	from, ok := deadPlace(cursor)
	if !ok {
		return fail("invalid-option", "The cursor %s is none of this gateway; take the next_cursor of the page before, or leave it out. Nothing was done.", quoted(cursor))
	}
	found, err := s.Broker.DeadLetters(r.Context(), filter, from, most+1)
	if err != nil {
		return err
	}
	list := api.DeadLetterList{DeadLetters: []api.DeadLetter{}}
	if len(found) > most {
		found = found[:most]
		last := found[most-1]
		list.NextCursor = strconv.FormatInt(last.Finished.UnixMilli(), 10) + "." + last.ID.String()
	}
	for _, d := range found {
		self := strings.TrimSuffix(s.PublicURL, "/") + "/v1/requests/" + d.ID.String()
		list.DeadLetters = append(list.DeadLetters, api.DeadLetter{
			CorrelationID: d.ID.String(), Service: d.Service, Status: string(d.Status), Attempt: d.Attempt,
			Error:     api.Error{Code: d.Error.Code, Message: d.Error.Message},
			CreatedAt: api.Time(d.Created), FinishedAt: api.Time(d.Finished), ExpiresAt: api.Time(d.Expires),
			ContentType: d.ContentType, Size: d.Size, Links: api.DeadLetterLinks{Self: self, Retry: self + "/retry"},
		})
	}
	s.writeJSON(w, r, http.StatusOK, list)
	return nil
}

// purge forgets the tenant's that match.
func (s *Server) purge(w http.ResponseWriter, r *http.Request) error {
	filter, err := s.deadFilter(r)
	if err != nil {
		return err
	}
	n, left, err := s.Broker.Purge(r.Context(), filter, purgeMost)
	if err != nil && n == 0 {
		return err
	}
	s.writeJSON(w, r, http.StatusOK, api.Purged{Purged: n, Left: left})
	return nil
}

// deadFilter reads which ones are meant. A parameter that nobody knows is refused,
// and so is an empty one: without it more would match, and a purge is for good.
func (s *Server) deadFilter(r *http.Request, further ...string) (f broker.DeadFilter, err error) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return f, fail("invalid-option", "The query after ? can't be read; write it as name=value&name=value, percent-encoded. Nothing was done.")
	}
	names := append([]string{"service", "error"}, further...)
	for name, given := range values {
		if !slices.Contains(names, name) {
			return f, fail("invalid-option", "There is no parameter %s. Nothing was done; the parameters are %s.", quoted(name), strings.Join(names, ", "))
		}
		if len(given) > 1 || given[0] == "" {
			return f, fail("invalid-option", "%s must be given once and have a value. Nothing was done; leave it out where it does not matter.", name)
		}
	}
	return broker.DeadFilter{Tenant: callOf(r).who.Tenant, Service: values.Get("service"), Code: values.Get("error")}, nil
}

func deadLimit(r *http.Request) (int, error) {
	text, err := query(r, "limit")
	if err != nil || text == "" {
		return deadPage, err
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > deadMost {
		return 0, fail("invalid-option", "The limit %s must be a number from 1 to %d. Nothing was done.", quoted(text), deadMost)
	}
	return n, nil
}

// deadPlace reads a cursor: the instant in ms and the ID of the last one seen.
func deadPlace(cursor string) (broker.DeadPlace, bool) {
	if cursor == "" {
		return broker.DeadPlace{}, true
	}
	at, text, _ := strings.Cut(cursor, ".")
	ms, err := strconv.ParseInt(at, 10, 64)
	id, wrong := correlation.Parse(text)
	if err != nil || wrong != nil || ms <= 0 || ms > 1<<53 {
		return broker.DeadPlace{}, false
	}
	return broker.DeadPlace{At: time.UnixMilli(ms), ID: id}, true
}
