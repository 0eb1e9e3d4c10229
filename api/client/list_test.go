package client_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/api/client"
)

func answers(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Write([]byte(body))
	}
}

// All goes on where a page ended, also after an empty one, with the same filter.
func TestAllPages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{script: []http.HandlerFunc{
			answers(`{"requests":[{"correlation_id":"a"},{"correlation_id":"b"}],"next_cursor":"1"}`),
			answers(`{"requests":[],"next_cursor":"2"}`),
			answers(`{"requests":[{"correlation_id":"c"}]}`),
		}}
		c := start(t, f)
		var got []string
		since := time.Date(2026, 11, 23, 1, 2, 3, 4_000_000, time.UTC)
		for s, err := range c.All(t.Context(), client.Filter{Service: "echo", Statuses: []string{"failed", "queued"}, Tags: []string{"a b"}, Since: since, Limit: 2}) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, s.CorrelationID)
		}
		if !slices.Equal(got, []string{"a", "b", "c"}) {
			t.Errorf("%v", got)
		}
		for i, call := range f.asked() {
			want := "/v1/requests?" + []string{"", "cursor=1&", "cursor=2&"}[i] + "limit=2&service=echo&since=2026-11-23T01%3A02%3A03.004Z&status=failed&status=queued&tag=a+b"
			if call.path != want || call.method != http.MethodGet {
				t.Errorf("%s %s, want %s", call.method, call.path, want)
			}
		}
	})
}

// What is no gateway is not taken for one without requests.
func TestListOfNoGateway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t, &fake{script: []http.HandlerFunc{answers(`{}`)}})
		_, err := c.List(t.Context(), client.Filter{})
		if err == nil || !strings.Contains(err.Error(), "address of a gateway") {
			t.Errorf("list: %v", err)
		}
		if _, err = c.Services(t.Context()); err == nil {
			t.Error("services")
		}
		if _, err = c.Workers(t.Context()); err == nil {
			t.Error("workers")
		}
		if _, err = c.Drain(t.Context(), "w1"); err == nil {
			t.Error("drain")
		}
		for _, err := range c.All(t.Context(), client.Filter{}) {
			if err == nil {
				t.Error("all")
			}
		}
	})
}

// The real gateway takes it all.
func TestListOfTheHouse(t *testing.T) {
	address, stop := house()
	defer stop()
	c := client.New(address)
	s, err := c.Submit(t.Context(), "nobody", client.Request{Tags: []string{"a", "b"}})
	if err != nil || !slices.Equal(s.Tags, []string{"a", "b"}) || s.LiveWorkers == nil || *s.LiveWorkers != 0 {
		t.Fatalf("%+v, %v", s, err)
	}
	page, err := c.List(t.Context(), client.Filter{Service: "nobody", Tags: []string{"b"}, IDPrefix: s.CorrelationID[:20], Since: time.Now().Add(-time.Hour), Until: time.Now().Add(time.Hour)})
	if err != nil || len(page.Requests) != 1 || page.Requests[0].CorrelationID != s.CorrelationID {
		t.Errorf("%+v, %v", page, err)
	}
	var workers []api.Worker
	for begun := time.Now(); len(workers) == 0 && time.Since(begun) < 10*time.Second; { // until the house's worker is there
		if workers, err = c.Workers(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	services, err := c.Services(t.Context())
	if err != nil || len(services) < 5 {
		t.Errorf("%+v, %v", services, err)
	}
	if one, err := c.Service(t.Context(), "echo"); err != nil || one.Description == "" {
		t.Errorf("%+v, %v", one, err)
	}
	if w, err := c.Drain(t.Context(), workers[0].Name); err != nil || w.State != api.WorkerDraining || !w.ObeysDrain {
		t.Errorf("%+v, %v", w, err)
	}
}
