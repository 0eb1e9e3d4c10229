package httpapi

import (
	"net/http"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/broker"
)

// maxWorkersShown is how many workers stand in the document of a service.
const maxWorkersShown = 100

// services lists who answers.
func (s *Server) services(w http.ResponseWriter, r *http.Request) error {
	list := api.ServiceList{Services: []api.Service{}}
	for _, name := range s.Broker.Services() {
		service, err := s.serviceDocument(r, name)
		if err != nil {
			return err
		}
		list.Services = append(list.Services, service)
	}
	s.writeJSON(w, r, http.StatusOK, list)
	return nil
}

// service shows one of them, with what its workers say of it.
func (s *Server) service(w http.ResponseWriter, r *http.Request) error {
	name, err := s.knownService(r)
	if err != nil {
		return err
	}
	service, err := s.serviceDocument(r, name)
	if err != nil {
		return err
	}
	said, err := s.Broker.Describe(r.Context(), name)
	if err != nil {
		return err
	}
	service.Description = said.Description
	s.writeJSON(w, r, http.StatusOK, service)
	return nil
}

// knownService is the service of the path.
func (s *Server) knownService(r *http.Request) (string, error) {
	name := param(r, "service")
	known, err := s.Broker.KnowsService(r.Context(), name)
	if err == nil && !known {
		err = fail("unknown-service", "No worker ever announced the service %s and no configuration names it. See /v1/services for those that are known.", quoted(name))
	}
	return name, err
}

func (s *Server) serviceDocument(r *http.Request, name string) (api.Service, error) {
	ctx := r.Context()
	q, err := s.Broker.Queue(ctx, name)
	if err != nil {
		return api.Service{}, err
	}
	workers, err := s.Broker.WorkersOf(ctx, name)
	if err != nil {
		return api.Service{}, err
	}
	d := api.Service{
		Name: name, Depth: q.Depth, Running: q.Running, Scheduled: q.Scheduled, OldestAgeSeconds: float32(q.OldestAge.Seconds()),
		StartedPerSecond: float32(q.PerSecond), FinishedPerSecond: float32(q.Finished), FailedPerSecond: float32(q.Failed),
		Attempts:   api.Attempts{Seconds: float32(q.Attempts.Window.Seconds()), Started: q.Attempts.Started, Retried: q.Attempts.Retried},
		RunSeconds: float32(q.RunTime.Seconds()), Workers: []api.Worker{}, PausedAt: api.Time(s.Broker.Paused(name)),
	}
	for _, worker := range workers {
		if worker.Claims() {
			d.LiveWorkers++
			d.Slots += worker.Slots
		}
		if len(d.Workers) < maxWorkersShown {
			d.Workers = append(d.Workers, workerDocument(worker))
		}
	}
	return d, nil
}

// workers lists all who are alive.
func (s *Server) workers(w http.ResponseWriter, r *http.Request) error {
	workers, err := s.Broker.Workers(r.Context())
	if err != nil {
		return err
	}
	list := api.WorkerList{Workers: make([]api.Worker, 0, len(workers))}
	for _, worker := range workers {
		list.Workers = append(list.Workers, workerDocument(worker))
	}
	s.writeJSON(w, r, http.StatusOK, list)
	return nil
}

func workerDocument(w broker.Worker) api.Worker {
	d := api.Worker{
		Name: w.Name, Version: w.Version, Services: w.Services, Slots: w.Slots, Busy: w.Busy, State: api.WorkerRunning,
		ObeysDrain: w.Obeys, Announced: w.Announced, SeenAt: api.Time(w.Seen),
	}
	if w.Draining {
		d.State = api.WorkerDraining
	}
	if d.Services == nil {
		d.Services = []string{}
	}
	return d
}
