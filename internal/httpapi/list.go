package httpapi

import (
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/broker"
)

const defaultList = 50 // requests of a page

// active and any stand for several statuses.
const (
	activeStatuses = "active"
	anyStatus      = "any"
)

var activeOnes = []broker.Status{broker.Scheduled, broker.Queued, broker.Running}

// idPrefixForm is how the text of a correlation ID begins, in lower case.
var idPrefixForm = regexp.MustCompile(`^[0-9a-f]{1,8}$|^[0-9a-f]{8}-[0-9a-f]{0,4}$|^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{0,4}$|^([0-9a-f]{4,8}-){1,4}[0-9a-f]{0,12}$`)

// list shows a page of the tenant's requests.
func (s *Server) list(w http.ResponseWriter, r *http.Request) error {
	q, err := s.listing(r)
	if err != nil {
		return err
	}
	page, err := s.Broker.List(r.Context(), q)
	if errors.Is(err, broker.ErrCursor) {
		return fail("invalid-option", "cursor is %s, which is no next_cursor of this listing. Nothing was listed; begin without one.", quoted(q.Cursor))
	}
	if err != nil {
		return err
	}
	list := api.RequestList{Requests: make([]api.Status, 0, len(page.Records)), NextCursor: page.Cursor}
	for _, record := range page.Records {
		list.Requests = append(list.Requests, s.document(r.Context(), record))
	}
	s.writeJSON(w, r, http.StatusOK, list)
	return nil
}

// listing reads what is looked for. A parameter that nobody knows is refused:
// without it the answer would be another one.
func (s *Server) listing(r *http.Request) (q broker.Query, err error) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return q, fail("invalid-option", "The query after ? can't be read; write it as name=value&name=value, percent-encoded. Nothing was listed.")
	}
	names := []string{"service", "status", "tag", "since", "until", "id_prefix", "cursor", "limit"}
	for name, given := range values {
		if !slices.Contains(names, name) {
			return q, fail("invalid-option", "There is no parameter %s. Nothing was listed; the parameters are %s.", quoted(name), strings.Join(names, ", "))
		}
		if len(given) > 1 && name != "status" && name != "tag" {
			return q, fail("invalid-option", "%s is given %d times. Nothing was listed; give it once.", name, len(given))
		}
	}
	q = broker.Query{Tenant: callOf(r).who.Tenant, Service: values.Get("service"), Cursor: values.Get("cursor"), Limit: defaultList}
	if q.Service != "" && !api.ValidService(q.Service) {
		return q, fail("invalid-option", "service is %s, which no service can be called: want %s. Nothing was listed.", quoted(q.Service), api.ServiceNames)
	}
	if q.Statuses, err = statuses(values["status"]); err != nil {
		return q, err
	}
	if q.Tags, err = tags("tag", values["tag"]); err != nil {
		return q, err
	}
	q.IDPrefix = strings.ToLower(values.Get("id_prefix"))
	if q.IDPrefix != "" && !idPrefixForm.MatchString(q.IDPrefix) {
		return q, fail("invalid-option", "id_prefix is %s, and no correlation ID begins so. Nothing was listed.", quoted(values.Get("id_prefix")))
	}
	if values.Has("limit") {
		n, err := strconv.Atoi(values.Get("limit"))
		if err != nil || n < 1 || n > broker.MaxList {
			return q, fail("invalid-option", "limit is %s; it must be a number from 1 to %d. Nothing was listed.", quoted(values.Get("limit")), broker.MaxList)
		}
		q.Limit = n
	}
	for name, into := range map[string]*time.Time{"since": &q.Since, "until": &q.Until} {
		if !values.Has(name) {
			continue
		}
		if *into, err = s.instant(r, name, values.Get(name)); err != nil {
			return q, err
		}
	}
	return q, nil
}

// instant reads a time, or a duration before now by Redis' clock, as that of
// created_at is.
func (s *Server) instant(r *http.Request, name, text string) (time.Time, error) {
	if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return t, nil
	}
	ago, ok := parseDuration(text)
	if !ok {
		return time.Time{}, fail("invalid-option", "%s is %s; it must be a time as in RFC 3339, such as 2026-11-23T21:45:02Z, or a duration such as 90m, which is that long ago. Nothing was listed.", name, quoted(text))
	}
	now, err := s.Broker.Now(r.Context())
	return now.Add(-ago), err
}

// statuses reads repeated and comma-separated ones; none means the active ones.
func statuses(given []string) (all []broker.Status, err error) {
	for text := range strings.SplitSeq(strings.Join(given, ","), ",") {
		status := broker.Status(strings.TrimSpace(text))
		switch {
		case status == "" && len(given) == 0:
		case status == activeStatuses:
			all = append(all, activeOnes...)
		case status == anyStatus:
			all = append(append(all, activeOnes...), broker.Outcomes...)
		case slices.Contains(activeOnes, status) || status.Terminal():
			all = append(all, status)
		default:
			return nil, fail("invalid-option", "status is %s; want scheduled, queued, running, succeeded, failed, timed_out, canceled, active or any. Nothing was listed.", quoted(text))
		}
	}
	return all, nil
}
