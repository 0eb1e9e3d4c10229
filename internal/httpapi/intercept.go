package httpapi

import (
	"context"
	"errors"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/api/intercept"
	"github.com/coatcheck/coatcheck/internal/broker"
)

// intercepted shows a request to the interceptors of its service. Nothing was
// queued by then, so who is refused can mend the body and send it again.
func (s *Server) intercepted(ctx context.Context, sub broker.Submission) (broker.Submission, error) {
	if s.Chain == nil {
		return sub, nil
	}
	seen, err := s.Chain.Request(ctx, intercept.Request{
		Tenant: sub.Tenant, Service: sub.Service, ContentType: sub.ContentType, Headers: sub.Headers, Body: sub.Body,
	})
	if err == nil {
		sub.ContentType, sub.Headers, sub.Body = seen.ContentType, seen.Headers, seen.Body
		return sub, nil
	}
	if errors.Is(err, intercept.ErrBroken) {
		return sub, failure{slug: "interceptor-failed", cause: err}
	}
	f := failure{slug: "body-refused", cause: err}
	if refusal, ok := errors.AsType[*intercept.Refusal](err); ok {
		f.detail = refusal.Detail + " Nothing was accepted; correct the body and send it again."
		for _, fault := range refusal.Faults {
			f.faults = append(f.faults, api.Fault{Pointer: fault.Pointer, Detail: fault.Detail})
		}
	}
	return sub, f
}
