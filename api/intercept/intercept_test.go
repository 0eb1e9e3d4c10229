package intercept_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/coatcheck/coatcheck/api/intercept"
)

var quiet = slog.New(slog.DiscardHandler)

func note(name string, ran *[]string) intercept.Interceptor {
	return intercept.Interceptor{Name: name, Request: func(_ context.Context, r *intercept.Request) error {
		*ran = append(*ran, name)
		r.Body = append([]byte(name+" "), r.Body...)
		return nil
	}}
}

// Those of all services run first, then those of the service, and each sees what
// the one before left.
func TestOrder(t *testing.T) {
	var ran []string
	c := intercept.NewChain(quiet)
	c.Use("echo", note("echo", &ran))
	c.Use(intercept.All, note("all", &ran))
	c.Use("other", note("other", &ran))
	got, err := c.Request(t.Context(), intercept.Request{Service: "echo", Body: []byte("body")})
	if err != nil || string(got.Body) != "echo all body" || !cmp.Equal(ran, []string{"all", "echo"}) {
		t.Errorf("%q, %v, %v", got.Body, ran, err)
	}
	if services := c.RepliesOf(); len(services) > 0 {
		t.Errorf("replies of %v are wanted by nobody", services)
	}
}

func TestBuiltIns(t *testing.T) {
	schema := []byte(`{"type":"object","required":["steps"],"properties":{"steps":{"type":"integer","minimum":1},"a/b":{"type":"string"}}}`)
	request, err := intercept.RequestSchema(schema)
	if err != nil {
		t.Fatal(err)
	}
	reply, err := intercept.ReplySchema(schema)
	if err != nil {
		t.Fatal(err)
	}
	c := intercept.NewChain(quiet)
	c.Use("echo", request, reply, intercept.AllowHeaders("X-Keep"), intercept.MaxBody(40), intercept.MaxReply(40))
	for body, want := range map[string][]intercept.Fault{
		`{"steps":1}`:           nil,
		`{}`:                    {{Pointer: "", Detail: "missing property 'steps'"}},
		`{"steps":0,"a/b":1}`:   {{Pointer: "/a~1b", Detail: "got number, want string"}, {Pointer: "/steps", Detail: "minimum: got 0, want 1"}},
		`{"steps":`:             {},
		``:                      {},
		`{"steps":1} {"and":2}`: {},
		`{"steps":1,"long":"` + strings.Repeat("x", 40) + `"}`: {},
	} {
		_, err := c.Request(t.Context(), intercept.Request{Service: "echo", Body: []byte(body)})
		_, replied := c.Reply(t.Context(), intercept.Reply{Service: "echo", Body: []byte(body)})
		for _, err := range []error{err, replied} {
			refusal, ok := errors.AsType[*intercept.Refusal](err)
			switch {
			case want == nil && err != nil, want != nil && !ok:
				t.Errorf("%s: %v", body, err)
			case ok && len(want) > 0:
				if diff := cmp.Diff(want, refusal.Faults); diff != "" {
					t.Errorf("%s: %s", body, diff)
				}
			}
		}
	}
	got, err := c.Request(t.Context(), intercept.Request{Service: "echo", Body: []byte(`{"steps":1}`), Headers: map[string]string{"x-keep": "1", "x-drop": "2"}})
	if err != nil || !cmp.Equal(got.Headers, map[string]string{"x-keep": "1"}) {
		t.Errorf("headers %v, %v", got.Headers, err)
	}
	for _, bad := range []string{`{`, `{"type":"strange"}`, `{"$ref":"https://example.com/schema.json"}`} {
		if _, err := intercept.RequestSchema([]byte(bad)); err == nil {
			t.Errorf("%s passes for a schema", bad)
		}
	}
}

// One that is slow or panics refuses, is not asked for a while once it did so
// five times in a row, and gets another chance.
func TestSlowAndPanicking(t *testing.T) {
	for name, broken := range map[string]func(context.Context, *intercept.Request) error{
		"slow":      func(ctx context.Context, _ *intercept.Request) error { time.Sleep(3 * time.Second); return nil },
		"panicking": func(context.Context, *intercept.Request) error { panic("oh") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				asked := 0
				c := intercept.NewChain(quiet)
				c.Use("echo", intercept.Interceptor{Name: name, Request: func(ctx context.Context, r *intercept.Request) error {
					if asked++; asked > 5 {
						return nil
					}
					return broken(ctx, r)
				}})
				for i := range 20 {
					begun := time.Now()
					_, err := c.Request(t.Context(), intercept.Request{Service: "echo"})
					if !errors.Is(err, intercept.ErrBroken) || time.Since(begun) > time.Second {
						t.Fatalf("call %d: %v after %v", i, err, time.Since(begun))
					}
					synctest.Wait()
				}
				if asked != 5 {
					t.Errorf("asked %d times, want 5", asked)
				}
				time.Sleep(31 * time.Second)
				if _, err := c.Request(t.Context(), intercept.Request{Service: "echo"}); err != nil {
					t.Errorf("after its rest: %v", err)
				}
			})
		})
	}
}

func TestRedact(t *testing.T) {
	for _, test := range []struct{ body, want string }{
		{`{"card":{"number":"4111","name":"x"},"n":1.50}`, `{"card":{"name":"x","number":"[redacted]"},"n":1.50}`},
		{`{"list":[{"pin":1},{"pin":2}]}`, `{"list":[{"pin":"[redacted]"},{"pin":"[redacted]"}]}`},
		{`[1]`, `[1]`},
		{`no json`, `"[redacted]"`},
		{``, ``},
	} {
		if got := intercept.Redact([]byte(test.body), "/card/number", "/list/*/pin"); string(got) != test.want {
			t.Errorf("%s: %s", test.body, got)
		}
	}
	if got := intercept.Redact([]byte(`{"a":1}`)); string(got) != `{"a":1}` {
		t.Errorf("without pointers: %s", got)
	}
}
