package gateway

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/coatcheck/coatcheck/api/intercept"
	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/config"
)

// chainOf makes the interceptors of the configuration and those that the program
// adds.
func chainOf(o Options) (*intercept.Chain, error) {
	chain := intercept.NewChain(o.Logger)
	for _, service := range slices.Sorted(maps.Keys(o.Config.Interceptors)) {
		links, err := o.Config.Interceptors[service].Interceptors()
		if err != nil {
			return nil, err
		}
		chain.Use(service, links...)
	}
	if o.Intercept != nil {
		o.Intercept(chain)
	}
	return chain, nil
}

// judge has the chain see final replies before they are settled. Where it can't
// tell, the request fails: a reply that nobody looked at must not pass for one.
func judge(chain *intercept.Chain) broker.Judge {
	return broker.Judge{Services: chain.RepliesOf(), Reply: func(ctx context.Context, r broker.FinalReply) broker.Verdict {
		seen, err := chain.Reply(ctx, intercept.Reply{
			CorrelationID: r.ID, Service: r.Service, ContentType: r.ContentType, StatusCode: r.StatusCode, Body: r.Body,
		})
		if refusal, ok := errors.AsType[*intercept.Refusal](err); ok {
			return broker.Verdict{Fail: &broker.Error{Code: refusal.Code, Message: refusal.Detail}}
		}
		if err != nil {
			return broker.Verdict{Fail: &broker.Error{Code: "interceptor", Message: "The reply of the worker was not let through by an " + err.Error() + "."}}
		}
		return broker.Verdict{Change: &broker.Reply{ContentType: seen.ContentType, StatusCode: seen.StatusCode, Body: seen.Body}}
	}}
}

// redact is what the page does not show, by service.
func redact(c config.Config) map[string][]string {
	pointers := map[string][]string{}
	for service, i := range c.Interceptors {
		if len(i.Redact) > 0 {
			pointers[service] = i.Redact
		}
	}
	return pointers
}
