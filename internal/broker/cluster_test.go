package broker_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/correlation"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// Every verb works in a Redis Cluster, where no command may touch keys of two slots.
func TestClusterVerbs(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, 3, 0)
	b := open(t, &redistest.Redis{URL: cluster.URL}, func(o *broker.Options) {
		o.Partitions = 6
		o.Services = map[string]broker.ServiceConfig{"echo": {}, "left": {}, "right": {}, "one": {Concurrency: 2}, "same": {Coalesce: true, CacheTTL: time.Minute}}
	})
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	upkeep := func() {
		t.Helper()
		settle(t, b)
		for p := range b.Partitions() {
			_, _, err := b.Hold(ctx, p, time.Minute)
			must(err)
			_, err = b.Decide(ctx, p)
			must(err)
			for _, s := range b.Services() {
				_, err := b.Lapse(ctx, p, s)
				must(err)
				_, _, err = b.Sweep(ctx, p, s, "")
				must(err)
				_, err = b.Regulate(ctx, p, s)
				must(err)
			}
			_, err = b.Regulated(ctx, p)
			must(err)
			_, err = b.Pursue(ctx, p)
			must(err)
			_, err = b.Reissue(ctx, p)
			must(err)
			_, err = b.Prune(ctx, p, nil)
			must(err)
			must(b.Clear(ctx, p))
			_, err = b.Retire(ctx, p, time.Hour)
			must(err)
			must(b.HandOver(ctx, p))
		}
		must(b.Muster(ctx))
	}
	work := func(n int, services ...string) {
		t.Helper()
		for n > 0 {
			got, err := b.Claim(ctx, "w1", services, 4, 2*time.Second)
			must(err)
			if len(got) == 0 {
				t.Fatalf("%d left to claim", n)
			}
			for _, d := range got {
				kind := "final"
				if string(d.Body) == "fail" {
					kind = "failed"
				}
				send(t, b, d, broker.WorkerReply{Type: "progress", Body: []byte("half")})
				send(t, b, d, broker.WorkerReply{Type: kind, Body: d.Body})
			}
			n -= len(got)
		}
	}
	told := &broker.Callback{URL: "http://127.0.0.1/", Events: []string{"succeeded"}}
	homes := map[int]bool{}
	var ids []correlation.ID
	for i := range 24 {
		r := submit(t, b, "body", func(s *broker.Submission) {
			s.Callback, s.Tags = told, []string{"some"}
			switch i % 4 {
			case 1:
				s.IdempotencyKey = fmt.Sprint("key", i)
			case 2:
				s.OrderingKey = fmt.Sprint("order", i)
			case 3:
				s.Priority = broker.PriorityHigh
			}
		})
		homes[r.ID.Partition()] = true
		ids = append(ids, r.ID)
	}
	if len(homes) != 6 {
		t.Errorf("requests in partitions %v only", homes)
	}
	upkeep()
	_, err := b.Attach(ctx, ids[0])
	must(err)
	must(b.Detach(ctx, ids[0]))
	_, err = b.Queue(ctx, "echo")
	must(err)
	work(24, "echo")
	upkeep()
	for _, id := range ids {
		if r := status(t, b, id); r.Status != broker.Succeeded {
			t.Errorf("%s is %s", id, r.Status)
		}
		_, _, _, err := b.Events(ctx, id, 0)
		must(err)
	}
	delivered := 0
	for delivered < 24 {
		intents, err := b.ClaimIntents(ctx, 8, time.Second)
		must(err)
		if len(intents) == 0 {
			t.Fatalf("%d callbacks of 24", delivered)
		}
		for i, n := range intents {
			if i == 0 && delivered == 0 {
				must(b.Postpone(ctx, n, time.Hour))
			} else {
				must(b.Delivered(ctx, n))
			}
		}
		delivered += len(intents)
	}

	for _, services := range [][]string{{"left", "right"}} {
		s := broker.Scatter{Submission: broker.Submission{Tenant: broker.DefaultTenant}}
		for _, name := range services {
			s.Legs = append(s.Legs, broker.Submission{Tenant: broker.DefaultTenant, Service: name, Body: []byte("x")})
		}
		r, _, err := b.Scatter(ctx, s)
		must(err)
		work(2, services...)
		upkeep()
		if r := status(t, b, r.ID); r.Status != broker.Succeeded {
			t.Errorf("the scatter is %s", r.Status)
		}
	}

	items := []broker.Submission{{Tenant: broker.DefaultTenant, Service: "echo", Body: []byte("1")}, {Tenant: broker.DefaultTenant, Service: "one", Body: []byte("2")}}
	opened, err := b.OpenBatch(ctx, broker.DefaultTenant, "batch-key", []byte("12"), len(items), items)
	must(err)
	var in []correlation.ID
	for i, s := range items {
		s.Batch = &broker.Item{Batch: opened.ID, Number: i, Ends: time.Now().Add(time.Hour)}
		r, _, err := b.Submit(ctx, s)
		must(err)
		in = append(in, r.ID)
	}
	must(b.CloseBatch(ctx, opened.ID, in))
	upkeep()
	work(2, "echo", "one")
	upkeep()
	if batch, err := b.Batch(ctx, opened.ID, broker.BatchAsk{Open: true, Attach: true}); err != nil || !batch.Complete {
		t.Errorf("batch %+v, %v", batch, err)
	}

	first := submit(t, b, "content", func(s *broker.Submission) { s.Service = "same" })
	second := submit(t, b, "content", func(s *broker.Submission) { s.Service = "same" })
	work(1, "same")
	upkeep()
	if a, z := status(t, b, first.ID), status(t, b, second.ID); a.Status != broker.Succeeded || z.Status != broker.Succeeded {
		t.Errorf("a shared run: %s and %s", a.Status, z.Status)
	}

	dead := submit(t, b, "fail")
	again := submit(t, b, "fail")
	work(2, "echo")
	upkeep()
	_, _, err = b.Retry(ctx, dead.ID)
	must(err)
	job, err := b.RedriveAll(ctx, broker.RedriveFilter{DeadFilter: broker.DeadFilter{Tenant: broker.DefaultTenant, Service: "echo"}})
	must(err)
	for range b.Partitions() { // the job goes from its home to the others
		upkeep()
	}
	work(2, "echo")
	upkeep()
	_, err = b.RedriveStatus(ctx, job.ID)
	must(err)
	if r := status(t, b, again.ID); r.RetriedAs == "" {
		t.Error("the job redrove nothing")
	}
	_, err = b.DeadLetters(ctx, broker.DeadFilter{Tenant: broker.DefaultTenant}, broker.DeadPlace{}, 10)
	must(err)
	_, _, err = b.Purge(ctx, broker.DeadFilter{Tenant: broker.DefaultTenant}, 10)
	must(err)

	late := submit(t, b, "body", func(s *broker.Submission) { s.Delay = time.Hour })
	_, err = b.Cancel(ctx, late.ID)
	must(err)
	gone := submit(t, b, "body")
	must(b.Delete(ctx, gone.ID))
	if _, err := b.Status(ctx, gone.ID); !errors.Is(err, broker.ErrGone) {
		t.Errorf("deleted: %v", err)
	}

	pulled := submit(t, b, "pulled")
	held, err := b.Reserve(ctx, "echo", 1, 2*time.Second)
	must(err)
	handed, err := b.Entrust(ctx, held)
	must(err)
	if len(handed) != 1 || handed[0].ID != pulled.ID.String() {
		t.Fatalf("entrusted %+v", handed)
	}
	_, _, err = b.Answer(ctx, handed[0].Token, broker.WorkerReply{Type: "final", Body: []byte("x")})
	must(err)
	back := submit(t, b, "back")
	held, err = b.Reserve(ctx, "echo", 1, 2*time.Second)
	must(err)
	must(b.Unclaim(ctx, held[0]))
	_, err = b.Cancel(ctx, back.ID)
	must(err)
	upkeep()

	page, err := b.List(ctx, broker.Query{Tenant: broker.DefaultTenant, Limit: 50, Statuses: slices.Clone(broker.Outcomes)})
	must(err)
	if len(page.Records) < 24 {
		t.Errorf("%d listed", len(page.Records))
	}
	masters := map[string]*redistest.Redis{} // by address
	for _, tag := range strings.Split(cluster.Master(t, "cc:config").Client.HGet(ctx, "cc:config", "tags").Val(), ",") {
		m := cluster.Master(t, "cc:{"+tag+"}:limits")
		masters[m.URL] = m
		must(m.Client.ConfigResetStat(ctx).Err())
	}
	must(b.Pause(ctx, "echo"))
	must(b.Resume(ctx, "echo"))
	for url, m := range masters { // what a partition hears late is known by the clock of its own server
		calls := func(of string) (n int) {
			_, after, _ := strings.Cut(m.Client.Info(ctx, "commandstats").Val(), "cmdstat_"+of+":calls=")
			_, _ = fmt.Sscan(strings.ReplaceAll(after, ",", " "), &n)
			return n
		}
		if asked := calls("time") - calls("evalsha"); asked < 2 { // each script asks for it too
			t.Errorf("%s was asked %d times for the time by the way", url, asked)
		}
	}
	_, err = b.Table(ctx)
	must(err)
	u, err := b.Upkeep(ctx)
	must(err)
	if u.Stuck != 0 || u.Aside != 0 {
		t.Errorf("upkeep %+v", u)
	}
	_, err = b.Enlist(ctx, broker.Enlistment{Services: map[string]broker.Description{"echo": {}}, Slots: 1})
	must(err)
	if _, err = b.Workers(ctx); err != nil {
		t.Error(err)
	}
	_, err = b.Drain(ctx, b.Name())
	must(err)
	must(b.Delist(ctx))
	must(broker.Refresh(ctx, b))
	sound(t, cluster)
}

// sound fails where a node of a cluster refused what should never have been asked.
func sound(t *testing.T, c *redistest.Cluster) {
	t.Helper()
	for _, r := range c.Nodes {
		ctx, stop := context.WithTimeout(context.Background(), time.Second)
		info, _ := r.Client.Info(ctx, "errorstats").Result() // one that is gone says nothing
		stop()
		for line := range strings.Lines(info) {
			kind, _, found := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "errorstat_"), ":")
			if found && slices.Contains([]string{"CROSSSLOT", "ERR", "READONLY", "WRONGTYPE"}, kind) {
				t.Errorf("a node was asked wrongly: %s", strings.TrimSpace(line))
			}
		}
	}
}

// While the slot of a partition is on its way, no script begins: some of the keys it
// would touch are here, and some there. Then all is as before.
func TestClusterSlotMigrates(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, 2, 0)
	b := open(t, &redistest.Redis{URL: cluster.URL}, func(o *broker.Options) { o.Partitions = 1 })
	if masters, idle, err := b.Idle(t.Context()); masters != 2 || idle != 1 || err != nil {
		t.Errorf("%d masters, %d idle, %v; want 2 and 1", masters, idle, err)
	}
	var ids []correlation.ID
	for range 40 {
		ids = append(ids, submit(t, b, "body").ID)
	}
	d := claim(t, b)
	to := cluster.Nodes[0]
	if cluster.Master(t, "cc:{0}:due") == to {
		to = cluster.Nodes[1]
	}
	cluster.Migrate(t, "cc:{0}:due", to, func() {
		if _, _, err := b.Submit(t.Context(), broker.Submission{Service: "echo"}); !errors.Is(err, broker.ErrUnavailable) {
			t.Errorf("submit to a slot on its way: %v", err)
		}
		for _, id := range ids {
			if _, err := b.Status(t.Context(), id); !errors.Is(err, broker.ErrUnavailable) {
				t.Errorf("status in a slot on its way: %v", err)
			}
		}
		send(t, b, d, broker.WorkerReply{Type: "final", Body: []byte("x")}) // one key: it is taken, wherever that is
		if _, _, err := b.Settle(t.Context(), 0); !errors.Is(err, broker.ErrUnavailable) {
			t.Errorf("settle in a slot on its way: %v", err)
		}
	})
	soon(t, "it is found where it is now", func() error {
		_, err := b.Status(t.Context(), ids[0])
		return err
	})
	submit(t, b, "after")
	settle(t, b)
	done := 0
	for _, id := range ids {
		if status(t, b, id).Status == broker.Succeeded {
			done++
		}
	}
	if done != 1 {
		t.Errorf("%d have their outcome, want one", done)
	}
	for left := 40; left > 0; {
		got, err := b.Claim(t.Context(), "w2", []string{"echo"}, 64, time.Second)
		if err != nil || len(got) == 0 {
			t.Fatalf("%d left to claim, %v", left, err)
		}
		left -= len(got)
	}
	sound(t, cluster)
}
