package httpapi

import (
	"errors"
	"net/http"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/broker"
)

// livez says that the process runs; whether Redis does is readyz' question.
func (s *Server) livez(w http.ResponseWriter, _ *http.Request) error {
	return s.text(w, "text/plain; charset=utf-8", []byte("ok\n"))
}

// readyz says whether this gateway takes requests, and how they are kept. One that is
// about to stop takes them still: this is how balancers hear of it in time.
func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) error {
	if s.leaving.Load() {
		return failure{slug: "draining"}
	}
	if err := s.Broker.Admits(); errors.Is(err, broker.ErrUndurable) {
		return failure{slug: "not-durable", detail: err.Error(), cause: err} // for operators, who look here
	} else if err != nil {
		return err
	}
	text := "ok\n"
	if kept := s.Broker.Kept(); kept.Mode != broker.Unpromised {
		text += "durability: " + kept.String() + "\n"
	}
	if s.Broker.Crowded() { // still ready: replies and reads go on, at every gateway alike
		text += "memory: Redis is near its maxmemory; new requests are refused until there is room\n"
	}
	return s.text(w, "text/plain; charset=utf-8", []byte(text))
}

// openapi serves the contract.
func (s *Server) openapi(w http.ResponseWriter, _ *http.Request) error {
	return s.text(w, "application/yaml", api.Contract)
}

// asyncapi serves the worker protocol.
func (s *Server) asyncapi(w http.ResponseWriter, _ *http.Request) error {
	return s.text(w, "application/yaml", api.WorkerProtocol)
}

// metrics leaves the answer to who knows the numbers.
func (s *Server) metrics(w http.ResponseWriter, r *http.Request) error {
	s.Metrics.ServeHTTP(w, r)
	return nil
}

func (s *Server) text(w http.ResponseWriter, contentType string, body []byte) error {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	_, _ = w.Write(body) // a client that left is nobody's error
	return nil
}
