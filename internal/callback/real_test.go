package callback

import (
	"context"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/inbox"
	"github.com/coatcheck/coatcheck/internal/redistest"
	"github.com/coatcheck/coatcheck/internal/steward"
)

// The whole way over real sockets: a request with a callback, the upkeep of a
// gateway, and the inbox as the receiver, which fails once.
func TestOverSockets(t *testing.T) {
	redistest.Each(t, func(t *testing.T, r *redistest.Redis) {
		b, err := broker.Open(t.Context(), broker.Options{URL: r.URL, Logger: quiet, Services: map[string]broker.ServiceConfig{"echo": {}}})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		d, err := New(b, Options{Guard: guard(t, "127.0.0.0/8"), Secrets: []string{secret}, Logger: quiet})
		if err != nil {
			t.Fatal(err)
		}
		box := inbox.New(secret)
		arrived := make(chan struct{}, 10)
		receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			box.ServeHTTP(w, r)
			arrived <- struct{}{}
		}))
		defer receiver.Close()

		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		s := steward.New(b, quiet)
		running.Go(func() { b.Run(ctx) })
		running.Go(func() { s.Run(ctx) })
		running.Go(func() { d.Run(ctx) })
		if _, _, err := b.Submit(t.Context(), broker.Submission{
			Tenant: broker.DefaultTenant, Service: "echo", Body: []byte("hi"),
			Callback: &broker.Callback{URL: receiver.URL + "/inbox/me?status=503&times=1", Events: []string{"succeeded"}},
		}); err != nil {
			t.Fatal(err)
		}
		work, err := b.Claim(t.Context(), "w", []string{"echo"}, 1, 2*time.Second)
		if err != nil || len(work) != 1 {
			t.Fatalf("claim: %v, %v", work, err)
		}
		begun := time.Now()
		if err := b.Send(t.Context(), work[0], broker.WorkerReply{Type: "final", Body: []byte("hi")}); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			select {
			case <-arrived:
			case <-time.After(20 * time.Second):
				t.Fatal("nothing arrived")
			}
		}
		if took := time.Since(begun); took < 5*time.Second || took > 10*time.Second {
			t.Errorf("the second attempt came after %v, want 5 s and a bit", took)
		}
		stop()
		running.Wait()
		if got, want := d.Stats(), (Stats{Delivered: 1, Failed: 1}); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
		if n := r.Client.XLen(context.Background(), "cc:{0}:callbacks").Val(); n != 0 {
			t.Errorf("%d intents are left behind", n)
		}
	})
}
