package httpapi

import (
	"context"
	"net/http"

	"github.com/coatcheck/coatcheck/api"
)

// services lists who answers.
func (s *Server) services(w http.ResponseWriter, r *http.Request) error {
	list := api.ServiceList{Services: []api.Service{}}
	for _, name := range s.Broker.Services() {
		service, err := s.serviceDocument(r.Context(), name)
		if err != nil {
			return err
		}
		list.Services = append(list.Services, service)
	}
	s.writeJSON(w, r, http.StatusOK, list)
	return nil
}

// service shows one of them.
func (s *Server) service(w http.ResponseWriter, r *http.Request) error {
	name := param(r, "service")
	known, err := s.Broker.KnowsService(r.Context(), name)
	if err != nil {
		return err
	}
	if !known {
		return fail("unknown-service", "No worker ever announced the service %s and no configuration names it. See /v1/services for those that are known.", quoted(name))
	}
	service, err := s.serviceDocument(r.Context(), name)
	if err != nil {
		return err
	}
	s.writeJSON(w, r, http.StatusOK, service)
	return nil
}

func (s *Server) serviceDocument(ctx context.Context, name string) (api.Service, error) {
	q, err := s.Broker.Queue(ctx, name)
	if err != nil {
		return api.Service{}, err
	}
	return api.Service{
		Name: name, Depth: q.Depth, Running: q.Running, OldestAgeSeconds: float32(q.OldestAge.Seconds()),
		StartedPerSecond: float32(q.PerSecond), RunSeconds: float32(q.RunTime.Seconds()),
		Scheduled: q.Scheduled, PausedAt: api.Time(s.Broker.Paused(name)),
	}, nil
}
