package httpapi_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/httpapi"
)

// announce has a worker say that it is alive, as a plain one does.
func (f *front) announce(name, services string, more ...string) {
	f.t.Helper()
	if _, err := f.mini.XAdd("cc:workers", "*", append([]string{"name", name, "services", services}, more...)); err != nil {
		f.t.Fatal(err)
	}
	time.Sleep(time.Second) // the age of what is known
}

func read[T any](t *testing.T, a answer) (v T) {
	t.Helper()
	if err := json.Unmarshal(a.body, &v); err != nil || a.StatusCode >= http.StatusBadRequest {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	return v
}

func names(workers []api.Worker) (names []string) {
	for _, w := range workers {
		names = append(names, w.Name)
	}
	return names
}

// TestService: who answers, with what, and what goes on.
func TestService(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		f.mini.HSet("cc:descriptions", "echo", `{"description":"Gives back what it gets."}`)
		f.announce("w1", "echo small", "version", "1.4.2", "slots", "10", "obeys_drain", "1")
		f.get("/v1/services/echo") // the first look; rates need two
		for range 3 {
			f.submit("x")
		}
		held := f.claim()
		f.send(held, broker.WorkerReply{Type: "retry", Delay: time.Millisecond})
		f.send(f.claim(), broker.WorkerReply{Type: "failed"})
		f.claim()
		time.Sleep(2 * time.Second)
		s := read[api.Service](t, f.get("/v1/services/echo"))
		if s.Depth != 1 || s.Running != 1 || s.Scheduled != 0 || s.LiveWorkers != 1 || s.Slots != 10 || s.Description != "Gives back what it gets." {
			t.Errorf("%+v", s)
		}
		if s.Attempts.Started != 3 || s.Attempts.Retried != 1 || s.Attempts.Seconds < 2 || s.StartedPerSecond <= 0 || s.FinishedPerSecond <= 0 || s.FailedPerSecond <= 0 {
			t.Errorf("%+v", s)
		}
		if len(s.Workers) != 1 {
			t.Fatalf("workers %+v", s.Workers)
		}
		w := s.Workers[0]
		if age := time.Since(time.Time(w.SeenAt)); age < time.Second || age > 10*time.Second {
			t.Errorf("seen %v ago", age)
		}
		w.SeenAt = api.Time{}
		want := api.Worker{Name: "w1", Version: "1.4.2", Services: []string{"echo", "small"}, Slots: 10, Busy: 1, State: "running", ObeysDrain: true, Announced: true}
		if fmt.Sprintf("%+v", w) != fmt.Sprintf("%+v", want) {
			t.Errorf("%+v, want %+v", w, want)
		}
		all := read[api.ServiceList](t, f.get("/v1/services"))
		if len(all.Services) != 2 || all.Services[0].LiveWorkers != 1 || all.Services[1].Workers[0].Busy != 0 {
			t.Errorf("%+v", all)
		}
		f.get("/v1/services/nobody").problem(t, "unknown-service")
	})
}

// TestLiveWorkers: a request that nobody is there for is accepted, and says so;
// so does one whose only worker was told to drain and obeys.
func TestLiveWorkers(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		live := func(want string) {
			t.Helper()
			a := f.post(echoRequests, "x")
			if !strings.Contains(string(a.body), `"live_workers":`+want) {
				t.Errorf("want %s: %s", want, a.body)
			}
		}
		live("0")
		f.announce("plain", "echo")
		f.announce("obeys", "echo", "obeys_drain", "1")
		live("2")
		for _, name := range []string{"plain", "obeys"} {
			a := f.post("/v1/workers/"+name+"/drain", "")
			if w := read[api.Worker](t, a); a.StatusCode != 202 || w.State != "draining" || w.ObeysDrain != (name == "obeys") {
				t.Errorf("%s: %d %+v", name, a.StatusCode, w)
			}
		}
		live("1") // nothing says that the plain one stopped
		if got := f.mini.HGet("cc:draining", "plain"); got == "" {
			t.Error("a plain worker finds nothing to read")
		}
		f.post("/v1/workers/nobody/drain", "").problem(t, "unknown-worker")
		f.post("/v1/workers/%20/drain", "").problem(t, "unknown-worker")
		f.announce("obeys", "echo", "state", "gone")
		if got := names(read[api.WorkerList](t, f.get("/v1/workers")).Workers); !slices.Equal(got, []string{"plain"}) {
			t.Errorf("workers %v", got)
		}
		time.Sleep(16 * time.Second) // nobody renewed
		if got := read[api.WorkerList](t, f.get("/v1/workers")).Workers; len(got) != 0 {
			t.Errorf("workers %v", got)
		}
		live("0")
		d := f.claim() // by w1, which never announced itself
		time.Sleep(time.Second)
		got := read[api.WorkerList](t, f.get("/v1/workers")).Workers
		if want := []api.Worker{{Name: "w1", Services: []string{"echo"}, Busy: 1, State: "running"}}; fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
			t.Errorf("%+v", got)
		}
		live("1")
		if s := f.get("/v1/requests/" + d.ID).status(t); s.LiveWorkers != nil {
			t.Errorf("running: live_workers %d", *s.LiveWorkers)
		}
	})
}

// TestServiceContract: the document is valid, has the schemas of the service,
// and stands alone.
func TestServiceContract(t *testing.T) {
	load := func(t *testing.T, a answer) *openapi3.T {
		t.Helper()
		loader := openapi3.NewLoader()
		d, err := loader.LoadFromData(a.body)
		if err == nil {
			err = d.Validate(loader.Context, openapi3.DisableExamplesValidation())
		}
		if err != nil || a.StatusCode != 200 {
			t.Fatalf("%d %v\n%s", a.StatusCode, err, a.body)
		}
		return d
	}
	inside(t, func(t *testing.T, f *front) {
		f.announce("w1", "echo", "version", "1.4.2")
		for name, said := range map[string]string{
			"described": `{"description":"Resizes.","request":{"type":"object","properties":{"next":{"$ref":"#"},"size":{"$ref":"#/$defs/size"},"kind":{"const":{"$ref":"#/x"}}},"$defs":{"size":{"type":"integer"}}},"reply":{"type":"string"}}`,
			"silent":    "",
			"strange":   `{"description":"x","request":[1],"reply":"no schema"}`,
			"broken":    "{",
		} {
			f.mini.HSet("cc:descriptions", "echo", said)
			d := load(t, f.get("/v1/services/echo/openapi.json"))
			submit := d.Paths.Find("/v1/services/echo/requests").Post
			if submit == nil || d.Info.Title != "echo" || d.Info.Version != "1.4.2" || submit.Parameters.GetByInAndName("path", "service") != nil ||
				submit.Parameters.GetByInAndName("header", api.HeaderTag) == nil {
				t.Errorf("%s: %+v", name, submit)
			}
			asked, answered := submit.RequestBody.Value.Content, d.Paths.Find("/v1/requests/{id}/reply").Get.Responses.Status(200).Value.Content
			if name != "described" {
				if asked["*/*"] == nil || answered["*/*"] == nil {
					t.Errorf("%s: %v, %v", name, asked, answered)
				}
				continue
			}
			schema := asked["application/json"].Schema.Value
			if !schema.Properties["size"].Value.Type.Is("integer") || !schema.Properties["next"].Value.Type.Is("object") ||
				!answered["application/json"].Schema.Value.Type.Is("string") || d.Info.Description != "Resizes." {
				t.Errorf("%+v, %+v", asked, answered)
			}
			if !strings.Contains(string(f.get("/v1/services/echo/openapi.json").body), `"const":{"$ref":"#/x"}`) {
				t.Error("a value was taken for a schema")
			}
		}
		f.get("/v1/services/nobody/openapi.json").problem(t, "unknown-service")
	}, func(o *httpapi.Options) { o.PublicURL = "https://gateway.example" })
}

// TestManyWorkers: the document of a service stays small, the list has all.
func TestManyWorkers(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		for i := range 150 {
			if _, err := f.mini.XAdd("cc:workers", "*", []string{"name", fmt.Sprint("w", i), "services", "echo", "slots", "2"}); err != nil {
				t.Fatal(err)
			}
		}
		s := read[api.Service](t, f.get("/v1/services/echo"))
		if len(s.Workers) != 100 || s.LiveWorkers != 150 || s.Slots != 300 {
			t.Errorf("%d shown, %d live, %d slots", len(s.Workers), s.LiveWorkers, s.Slots)
		}
		if got := read[api.WorkerList](t, f.get("/v1/workers")).Workers; len(got) != 150 {
			t.Errorf("%d listed", len(got))
		}
	})
}
