package httpapi

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/correlation"
)

const maxRedriveBody = 4 << 10 // bytes of a filter

// redriveFields are what it may say.
var redriveFields = []string{"service", "error", "status", "limit"}

// redriveAll begins a job over the tenant's dead letters that match.
func (s *Server) redriveAll(w http.ResponseWriter, r *http.Request) error {
	if s.draining.Load() {
		return failure{slug: "draining"}
	}
	ask, err := s.redriveFilter(w, r)
	if err != nil {
		return err
	}
	job, err := s.Broker.RedriveAll(r.Context(), broker.RedriveFilter{
		DeadFilter: broker.DeadFilter{Tenant: callOf(r).who.Tenant, Service: ask.Service, Code: ask.Error},
		Status:     broker.Status(ask.Status), Limit: ask.Limit,
	})
	if err != nil {
		return err
	}
	document := s.redriveDocument(job)
	w.Header().Set("Location", document.Links.Self)
	s.writeJSON(w, r, http.StatusAccepted, document)
	return nil
}

// redriveFilter reads which ones are meant. What is said must say something: an
// empty service, perhaps of a variable that is not set, would mean all of them.
func (s *Server) redriveFilter(w http.ResponseWriter, r *http.Request) (ask api.RedriveRequest, err error) {
	share := memory{server: s}
	defer share.release()
	body, err := s.body(w, r, &share)
	if err != nil || len(body) == 0 {
		return ask, err
	}
	if len(body) > maxRedriveBody {
		return ask, fail("body-too-large", "The body has %d bytes; %d are enough to say which dead letters are meant. No job was begun.", len(body), maxRedriveBody)
	}
	var fields map[string]json.RawMessage
	if json.Unmarshal(body, &fields) != nil || fields == nil || json.Unmarshal(body, &ask) != nil {
		return ask, fail("invalid-request", "The body is no JSON object with service, error and status as strings and limit as a number. No job was begun.")
	}
	for name, value := range fields {
		if !slices.Contains(redriveFields, name) {
			return ask, fail("invalid-request", "There is no field %s. No job was begun; the fields are %s.", quoted(name), strings.Join(redriveFields, ", "))
		}
		if string(value) == `""` || string(value) == "null" {
			return ask, fail("invalid-option", "The field %s is empty. No job was begun; leave it out where it does not matter.", name)
		}
	}
	if status := broker.Status(ask.Status); status != "" && status != broker.Failed && status != broker.TimedOut {
		return ask, fail("invalid-option", "The status %s must be failed or timed_out, or left out. No job was begun.", quoted(ask.Status))
	}
	if _, said := fields["limit"]; said && ask.Limit < 1 || ask.Limit > broker.MostRedriven {
		return ask, fail("invalid-option", "The limit must be a number from 1 to %d, or left out. No job was begun.", broker.MostRedriven)
	}
	return ask, nil
}

// redriveID reads the ID of the path; see id.
func (s *Server) redriveID(r *http.Request) (correlation.ID, error) {
	id, err := s.id(r)
	if err != nil {
		err = failure{slug: "not-found", cause: err, detail: "This ID of a redrive was never issued to you. Check that it is complete, and that the API key is of the tenant that began it."}
	}
	return id, err
}

// redrive tells how far a job is.
func (s *Server) redrive(w http.ResponseWriter, r *http.Request) error {
	id, err := s.redriveID(r)
	if err != nil {
		return err
	}
	job, err := s.Broker.RedriveStatus(r.Context(), id)
	if err != nil {
		return redriveGone(err)
	}
	s.writeJSON(w, r, http.StatusOK, s.redriveDocument(job))
	return nil
}

// stopRedrive stops a job.
func (s *Server) stopRedrive(w http.ResponseWriter, r *http.Request) error {
	id, err := s.redriveID(r)
	if err != nil {
		return err
	}
	job, err := s.Broker.StopRedrive(r.Context(), id)
	if errors.Is(err, broker.ErrTerminal) {
		return fail("already-terminal", "The job is done, since %s; there was nothing to stop. It redrove %d.", api.Time(job.Finished), job.Done)
	}
	if err != nil {
		return redriveGone(err)
	}
	s.writeJSON(w, r, http.StatusOK, s.redriveDocument(job))
	return nil
}

func redriveGone(err error) error {
	if errors.Is(err, broker.ErrGone) {
		return fail("gone", "No job is known by this ID: it ended more than a day ago, or it is the ID of something else. What it redrove stays redriven; see /v1/dead-letters for what is left.")
	}
	return err
}

func (s *Server) redriveDocument(j broker.Redrive) api.Redrive {
	self := strings.TrimSuffix(s.PublicURL, "/") + "/v1/redrives/" + j.ID.String()
	return api.Redrive{
		ID: j.ID.String(), State: string(j.State), Total: j.Total, Done: j.Done, Failed: j.Failed,
		Service: j.Filter.Service, Error: j.Filter.Code, Status: string(j.Filter.Status), Limit: j.Filter.Limit,
		CreatedAt: api.Time(j.Created), FinishedAt: api.Time(j.Finished), Links: api.RedriveLinks{Self: self, Cancel: self + "/cancel"},
	}
}
