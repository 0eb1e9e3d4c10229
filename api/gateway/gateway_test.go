package gateway_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/api/client"
	"github.com/coatcheck/coatcheck/api/gateway"
	"github.com/coatcheck/coatcheck/api/intercept"
	"github.com/coatcheck/coatcheck/api/worker"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// Interceptors in Go see each request before it is queued and each reply before
// it is settled, on the way of a real request.
func TestUse(t *testing.T) {
	redistest.Each(t, func(t *testing.T, r *redistest.Redis) {
		quiet := slog.New(slog.DiscardHandler)
		file := filepath.Join(t.TempDir(), "coatcheck.yaml")
		if err := os.WriteFile(file, []byte("addr: 127.0.0.1:0\ndrain_delay: 0s\nredis_url: "+r.URL+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		g, err := gateway.Load(file, quiet)
		if err != nil {
			t.Fatal(err)
		}
		g.Use("echo", intercept.Interceptor{
			Name: "manners",
			Request: func(_ context.Context, r *intercept.Request) error {
				if bytes.Contains(r.Body, []byte("rude")) {
					return &intercept.Refusal{Code: "rude", Detail: "The body is rude."}
				}
				r.Body = append([]byte("dear worker, "), r.Body...)
				return nil
			},
			Reply: func(_ context.Context, r *intercept.Reply) error {
				if bytes.Contains(r.Body, []byte("secret")) {
					return errors.New("a secret")
				}
				r.Body = append(r.Body, ", yours"...)
				return nil
			},
		})
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		defer running.Wait()
		defer stop()
		if err := g.Start(ctx); err != nil {
			t.Fatal(err)
		}
		running.Go(func() { g.Run(ctx) })
		w := worker.New(r.URL, worker.Logger(quiet))
		w.Handle("echo", func(_ context.Context, r *worker.Request) (worker.Reply, error) {
			return worker.Reply{ContentType: "text/plain", Body: r.Body}, nil
		})
		running.Go(func() { w.Run(ctx) })

		c := client.New("http://" + g.Addr().String())
		ask := func(body string) (api.Status, error) {
			var s api.Status
			var err error
			for { // until the worker is known
				s, err = c.Submit(ctx, "echo", client.Request{ContentType: "text/plain", Body: []byte(body)})
				if p, ok := errors.AsType[api.Problem](err); !ok || p.Status != 404 {
					break
				}
			}
			if err != nil {
				return s, err
			}
			return c.Wait(ctx, s.CorrelationID)
		}
		s, err := ask("hi")
		if err != nil || s.Status != api.Succeeded || string(s.Reply.Body) != `"dear worker, hi, yours"` {
			t.Errorf("%s %s, %v", s.Status, s.Reply.Body, err)
		}
		_, err = ask("rude")
		if p, ok := errors.AsType[api.Problem](err); !ok || p.Status != 422 || p.Detail != "The body is rude. Nothing was accepted; correct the body and send it again." {
			t.Errorf("rude: %v", err)
		}
		s, err = ask("a secret")
		if err != nil || s.Status != api.Failed || s.Reason != "intercepted" || s.Error.Code != "interceptor" {
			t.Errorf("secret: %s %s %+v, %v", s.Status, s.Reason, s.Error, err)
		}
	})
}
