package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/api/client"
)

// Submit and follow in one call.
func ExampleClient_Follow() {
	address, stop := house()
	defer stop()

	c := client.New(address)
	for e, err := range c.Follow(context.Background(), "progress", client.Request{Body: []byte(`{"steps":2,"interval":"1ms"}`)}) {
		switch {
		case err != nil:
			log.Fatal(err)
		case e.Kind == "progress":
			fmt.Println(e.Event.Number, string(e.Event.Body))
		case e.Kind == "outcome":
			fmt.Println(e.Status.Status)
		}
	}
	// Output:
	// 1 {"percent":50,"step":1,"steps":2}
	// 2 {"percent":100,"step":2,"steps":2}
	// succeeded
}

// Many requests in one call; one of them asks for no reply.
func ExampleClient_SubmitBatch() {
	address, stop := house()
	defer stop()

	c, ctx := client.New(address), context.Background()
	a, err := c.SubmitBatch(ctx, "order-7",
		api.BatchItem{Service: "echo", Body: api.Raw(`{"a":1}`), Priority: "high"},
		api.BatchItem{Service: "echo", Encoding: "text", Body: api.Raw(`"hi"`), Return: "minimal"},
		api.BatchItem{Service: "nothing"},
	)
	if err != nil {
		log.Fatal(err)
	}
	b, err := c.WaitBatch(ctx, a.BatchID)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(a.Items[2].StatusCode, a.Items[2].Problem.Title)
	fmt.Println(b.Accepted, b.Succeeded, b.Complete)
	// Output:
	// 404 No such service
	// 2 2 true
}

// accepting is a stream that a submit is answered with.
func accepting(text string, broken bool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(api.HeaderCorrelationID, id)
		w.Header().Set("Content-Type", "text/event-stream")
		w.WriteHeader(http.StatusAccepted)
		stream(text, broken)(w, r)
	}
}

// TestFollow: a call that broke before its answer is made again, with the same key;
// from the answer on the request is only read, after what was seen.
func TestFollow(t *testing.T) {
	status := api.Status{CorrelationID: id, Status: api.Running, Attempt: 1}
	for name, c := range map[string]struct {
		script []http.HandlerFunc
		calls  []string
		seen   string
	}{
		"at once":                   {[]http.HandlerFunc{accepting(snapshot(api.Running)+progress(1)+outcome(2), false)}, []string{"POST "}, "running 1 2"},
		"broken before its answer":  {[]http.HandlerFunc{hangUp, problem("unavailable", 1), accepting(outcome(1), false)}, []string{"POST ", "POST ", "POST "}, "1"},
		"broken before an event":    {[]http.HandlerFunc{accepting("", true), stream(progress(1)+outcome(2), false)}, []string{"POST ", "GET "}, "1 2"},
		"broken between events":     {[]http.HandlerFunc{accepting(progress(1), true), stream(progress(2), true), stream(outcome(3), false)}, []string{"POST ", "GET 1", "GET 2"}, "1 2 3"},
		"a gateway without streams": {[]http.HandlerFunc{answer(status), stream(outcome(1), false)}, []string{"POST ", "GET "}, "1"},
	} {
		synctest.Test(t, func(t *testing.T) {
			f := &fake{script: c.script}
			var seen []string
			for e, err := range start(t, f).Follow(t.Context(), "echo", client.Request{Body: []byte("hi"), Minimal: true}) {
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				switch e.Kind {
				case "status":
					seen = append(seen, string(e.Status.Status))
				case "outcome":
					seen = append(seen, fmt.Sprint(e.Status.Events))
				default:
					seen = append(seen, fmt.Sprint(e.Event.Number))
				}
			}
			var calls, keys []string
			for _, call := range f.asked() {
				calls = append(calls, call.method+" "+call.header.Get(api.HeaderLastEventID))
				if call.method == http.MethodPost {
					keys = append(keys, call.header.Get(api.HeaderIdempotencyKey))
					if call.body != "hi" || call.header.Get("Accept") != "text/event-stream" || call.header.Get("Prefer") != "return=minimal" || call.path != "/v1/services/echo/requests" {
						t.Errorf("%s: %+v", name, call)
					}
				} else if call.body != "" || call.path != "/v1/requests/"+id+"/events" || call.header.Get("Prefer") != "" {
					t.Errorf("%s: %+v", name, call)
				}
			}
			if diff := cmp.Diff(c.calls, calls); diff != "" || strings.Join(seen, " ") != c.seen {
				t.Errorf("%s: seen %v, asked (-want +got) %s", name, seen, diff)
			}
			for _, key := range keys {
				if key == "" || key != keys[0] {
					t.Errorf("%s: keys %v", name, keys)
				}
			}
		})
	}
}

func TestFollowRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{script: []http.HandlerFunc{problem("unknown-service", 0)}}
		for _, err := range start(t, f).Follow(t.Context(), "nobody", client.Request{}) {
			if p, ok := errors.AsType[api.Problem](err); !ok || p.Status != 404 || !strings.Contains(err.Error(), "nobody") {
				t.Errorf("%v", err)
			}
		}
		if n := len(f.asked()); n != 1 {
			t.Errorf("asked %d times", n)
		}
	})
}

// TestBatchForms: JSON Lines are called so, and a key is always there.
func TestBatchForms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{script: []http.HandlerFunc{hangUp, func(w http.ResponseWriter, _ *http.Request) {
			json.NewEncoder(w).Encode(api.BatchAnswer{BatchID: id})
		}}}
		c := start(t, f)
		for _, items := range []string{" [\n{}]", "{}\n{}\n"} {
			if a, err := c.SubmitBatchJSON(t.Context(), "", []byte(items)); err != nil || a.BatchID != id {
				t.Errorf("%+v, %v", a, err)
			}
		}
		var said []string
		for _, call := range f.asked() {
			said = append(said, call.header.Get("Content-Type")+" "+call.body)
		}
		want := []string{"application/json  [\n{}]", "application/json  [\n{}]", "application/jsonl {}\n{}\n"}
		if diff := cmp.Diff(want, said); diff != "" {
			t.Error(diff)
		}
		if a := f.asked(); a[0].header.Get(api.HeaderIdempotencyKey) == "" || a[0].header.Get(api.HeaderIdempotencyKey) != a[1].header.Get(api.HeaderIdempotencyKey) {
			t.Errorf("keys %v", a)
		}
	})
}
