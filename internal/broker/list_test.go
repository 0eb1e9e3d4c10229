package broker_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/correlation"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

func tenant(name string, tags ...string) func(*broker.Submission) {
	return func(s *broker.Submission) { s.Tenant, s.Tags = name, tags }
}

// all pages through a listing.
func all(t testing.TB, b *broker.Broker, q broker.Query) (ids []correlation.ID, pages int) {
	t.Helper()
	for pages = 1; ; pages++ {
		page, err := b.List(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range page.Records {
			ids = append(ids, r.ID)
		}
		if q.Cursor = page.Cursor; q.Cursor == "" {
			return ids, pages
		}
		if pages > 100 {
			t.Fatal("the listing has no end")
		}
	}
}

// Several partitions are one listing, newest first to the millisecond, and no
// page misses or repeats one.
func TestListOverPartitions(t *testing.T) {
	redistest.Each(t, func(t *testing.T, r *redistest.Redis) {
		b := open(t, r, func(o *broker.Options) { o.Partitions = 4 })
		var want []broker.Record
		for i := range 60 {
			want = append(want, submit(t, b, fmt.Sprint(i), tenant("acme")))
			submit(t, b, "x", tenant("globex"))
		}
		for range 30 { // some of both tenants end
			send(t, b, claim(t, b), broker.WorkerReply{Type: []string{"final", "failed"}[len(want)%2]})
		}
		settle(t, b)
		slices.SortFunc(want, func(a, b broker.Record) int { // ties by ID
			if c := b.Created.Compare(a.Created); c != 0 {
				return c
			}
			return slices.Compare(b.ID[:], a.ID[:])
		})
		anyOf := append([]broker.Status{broker.Scheduled, broker.Queued, broker.Running}, broker.Outcomes...)
		for _, limit := range []int{1, 7, 60, 500} {
			got, pages := all(t, b, broker.Query{Tenant: "acme", Statuses: anyOf, Limit: limit})
			if len(got) != len(want) || pages != (60+limit-1)/limit {
				t.Fatalf("limit %d: %d in %d pages", limit, len(got), pages)
			}
			for i := range want {
				if got[i] != want[i].ID {
					t.Fatalf("limit %d: place %d is %s, want %s", limit, i, got[i], want[i].ID)
				}
			}
		}
		open, _ := all(t, b, broker.Query{Tenant: "acme", Limit: 10})
		ended, _ := all(t, b, broker.Query{Tenant: "acme", Statuses: broker.Outcomes, Limit: 10})
		if len(open)+len(ended) != 60 || len(ended) == 0 {
			t.Errorf("%d active and %d ended", len(open), len(ended))
		}
		for _, cursor := range []string{"x", "", "MTIzIDEyMw"} {
			if _, err := b.List(t.Context(), broker.Query{Tenant: "acme", Limit: 1, Cursor: cursor}); errors.Is(err, broker.ErrCursor) != (cursor != "") {
				t.Errorf("cursor %q: %v", cursor, err)
			}
		}
	})
}

// A tag that few have is found behind many that don't, though no page looks at
// more than a bounded number.
func TestListLooksAtFew(t *testing.T) {
	redistest.Each(t, func(t *testing.T, r *redistest.Redis) {
		b := open(t, r)
		rare := submit(t, b, "x", tenant("acme", "rare", "more"))
		var others []redis.Z
		for i := range 12_000 { // members without a record are looked at all the same
			id := rare.ID
			id[14], id[15] = byte(i>>8), byte(i)
			others = append(others, z(float64(rare.Created.UnixMilli()+1), id.String()))
		}
		if err := r.Client.ZAdd(t.Context(), "cc:{0}:listing:open:acme", others...).Err(); err != nil {
			t.Fatal(err)
		}
		got, pages := all(t, b, broker.Query{Tenant: "acme", Tags: []string{"more", "rare"}, Limit: 5})
		if len(got) != 1 || got[0] != rare.ID || pages < 2 || pages > 4 {
			t.Errorf("%v in %d pages", got, pages)
		}
		if !slices.Equal(status(t, b, rare.ID).Tags, []string{"rare", "more"}) {
			t.Errorf("tags %q", status(t, b, rare.ID).Tags)
		}
	})
}

// What is gone is pruned wherever it stands, what is above the bound goes
// oldest first, and a tenant with nothing left is forgotten.
func TestPrune(t *testing.T) {
	r := redistest.Start(t) // ten thousand are too many for the embedded one, which sorts them for each look
	{
		b := open(t, r)
		long := submit(t, b, "x", tenant("acme"))
		short := submit(t, b, "x", tenant("acme"), func(s *broker.Submission) { s.Retention = 50 * time.Millisecond })
		last := submit(t, b, "x", tenant("acme"))
		for range 3 {
			send(t, b, claim(t, b), broker.WorkerReply{Type: "final"})
		}
		settle(t, b)
		index := func() []string { return r.Client.ZRange(t.Context(), "cc:{0}:listing:succeeded:acme", 0, -1).Val() }
		if !slices.Equal(index(), []string{long.ID.String(), short.ID.String(), last.ID.String()}) {
			t.Fatalf("index %v", index())
		}
		gone(t, b, r, short.ID)
		walk, err := b.Prune(t.Context(), 0, nil)
		if err != nil || !slices.Equal(index(), []string{long.ID.String(), last.ID.String()}) {
			t.Errorf("index %v, %v", index(), err)
		}
		var members []redis.Z // one command for all: the embedded Redis walks all keys for each
		var records, keys []string
		for i := range 10_000 {
			name := fmt.Sprint("none ", i)
			members = append(members, z(float64(last.Created.UnixMilli()+1), name))
			keys = append(keys, "cc:{0}:request:"+name)
			records = append(records, keys[i], "")
		}
		if err := errors.Join(r.Client.ZAdd(t.Context(), "cc:{0}:listing:succeeded:acme", members...).Err(), r.Client.MSet(t.Context(), records).Err()); err != nil {
			t.Fatal(err)
		}
		if walk, err = b.Prune(t.Context(), 0, walk); err != nil || len(index()) != 10_000 || index()[0] != "none 0" {
			t.Errorf("%d are listed from %s, %v", len(index()), index()[0], err)
		}
		if err := r.Client.Del(t.Context(), keys...).Err(); err != nil {
			t.Fatal(err)
		}
		for range 5 {
			if walk, err = b.Prune(t.Context(), 0, walk); err != nil {
				t.Fatal(err)
			}
		}
		if n := len(index()); n != 0 {
			t.Errorf("%d are left", n)
		}
		tenants := func() []string { return r.Client.ZRange(t.Context(), "cc:{0}:tenants", 0, -1).Val() }
		if !slices.Equal(tenants(), []string{"acme"}) {
			t.Errorf("tenants %q: a process may still use the registration", tenants())
		}
		r.Client.ZAdd(t.Context(), "cc:{0}:tenants", z(float64(time.Now().Add(-3*time.Minute).UnixMilli()), "acme"))
		if _, err = b.Prune(t.Context(), 0, walk); err != nil || len(tenants()) != 0 {
			t.Errorf("tenants %q, %v", tenants(), err)
		}
	}
}
