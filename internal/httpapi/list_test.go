package httpapi_test

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/api"
)

func (f *front) list(query string, headers ...string) api.RequestList {
	f.t.Helper()
	return read[api.RequestList](f.t, f.get("/v1/requests"+query, headers...))
}

func ids(l api.RequestList) (ids []string) {
	for _, r := range l.Requests {
		ids = append(ids, r.CorrelationID)
	}
	return ids
}

// TestList: each filter alone, and what they leave.
func TestList(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		tagged := f.submit("a", "Coatcheck-Tag: nightly, customer-17", "Coatcheck-Tag: x")
		if !slices.Equal(tagged.Tags, []string{"nightly", "customer-17", "x"}) {
			t.Errorf("tags %q", tagged.Tags)
		}
		time.Sleep(time.Minute)
		middle := time.Now()
		small := f.post("/v1/services/small/requests", "b", "Coatcheck-Tag: nightly").status(t)
		time.Sleep(time.Minute)
		f.echo() // answers the first
		waiting := f.submit("c")
		time.Sleep(time.Millisecond) // of one millisecond, none is the newer one
		failing := f.submit("d")
		f.call("POST", "/v1/requests/"+failing.CorrelationID+"/cancel", nil)
		running := f.claim().ID
		if running != waiting.CorrelationID {
			t.Fatal("another one was claimed")
		}
		for query, want := range map[string][]string{
			"":                                 {running, small.CorrelationID},
			"?status=active&limit=500":         {running, small.CorrelationID},
			"?status=running":                  {running},
			"?status=queued":                   {small.CorrelationID},
			"?status=scheduled":                nil,
			"?status=succeeded":                {tagged.CorrelationID},
			"?status=canceled,succeeded":       {failing.CorrelationID, tagged.CorrelationID},
			"?status=canceled&status=queued":   {failing.CorrelationID, small.CorrelationID},
			"?status=any":                      {failing.CorrelationID, running, small.CorrelationID, tagged.CorrelationID},
			"?service=small":                   {small.CorrelationID},
			"?service=echo&status=any":         {failing.CorrelationID, running, tagged.CorrelationID},
			"?service=nobody":                  nil,
			"?tag=nightly&status=any":          {small.CorrelationID, tagged.CorrelationID},
			"?tag=nightly,x&status=any":        {tagged.CorrelationID},
			"?tag=nightly&tag=none&status=any": nil,
			"?tag=night&status=any":            nil,
			"?since=90s&status=any":            {failing.CorrelationID, running, small.CorrelationID},
			"?until=90s&status=any":            {tagged.CorrelationID},
			"?status=any&until=" + url.QueryEscape(small.CreatedAt.String()):            {tagged.CorrelationID},
			"?status=any&since=" + url.QueryEscape(small.CreatedAt.String()):            {failing.CorrelationID, running, small.CorrelationID},
			"?since=" + url.QueryEscape(middle.Format(time.RFC3339Nano)) + "&until=30s": {small.CorrelationID},
			"?id_prefix=" + small.CorrelationID:                                         {small.CorrelationID},
			"?id_prefix=" + strings.ToUpper(small.CorrelationID[:12]):                   {small.CorrelationID},
			"?status=any&id_prefix=" + small.CorrelationID[:4]:                          {failing.CorrelationID, running, small.CorrelationID, tagged.CorrelationID},
			"?id_prefix=ffff": nil,
			"?service=echo&status=succeeded&tag=x&since=1h&until=10s&id_prefix=" + tagged.CorrelationID[:13]: {tagged.CorrelationID},
		} {
			if l := f.list(query); !slices.Equal(ids(l), want) || l.NextCursor != "" {
				t.Errorf("%s: %v, cursor %q, want %v", query, ids(l), l.NextCursor, want)
			}
		}
		done := f.list("?status=succeeded").Requests[0]
		if done.Reply.Size != 1 || done.Reply.Body != nil || done.Reply.ContentType == "" && done.Links.Reply == "" {
			t.Errorf("reply %+v", done.Reply)
		}
		if d := f.list("?service=small").Requests[0]; d.LiveWorkers == nil || d.QueuePosition != 1 {
			t.Errorf("%+v", d)
		}
	})
}

// TestListPages: cursors meet each request once, also when new ones come in and
// others end meanwhile.
func TestListPages(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		var want []string
		for i := range 25 {
			want = append(want, f.submit(fmt.Sprint(i)).CorrelationID)
			time.Sleep(time.Millisecond)
		}
		slices.Reverse(want)
		var got []string
		query, pages := "?status=any&limit=10", 0
		for cursor := ""; ; pages++ {
			l := f.list(query + cursor)
			got = append(got, ids(l)...)
			if l.NextCursor == "" {
				break
			}
			if len(l.Requests) != 10 {
				t.Errorf("a page of %d", len(l.Requests))
			}
			cursor = "&cursor=" + l.NextCursor
			f.submit("new")
			f.echo()
		}
		if !slices.Equal(got, want) || pages != 2 {
			t.Errorf("%d pages after the first:\n%v, want\n%v", pages, got, want)
		}
		if l := f.list("?status=any&limit=27"); l.NextCursor != "" || len(l.Requests) != 27 {
			t.Errorf("%d, cursor %q: a page that ends with the listing has none", len(l.Requests), l.NextCursor)
		}
	})
}

// TestListIsTheTenants, and a cursor opens nothing.
func TestListIsTheTenants(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		var mine []string
		for range 3 {
			mine = append(mine, f.submit("x", as("all")).CorrelationID)
			f.submit("x", as("globex"))
			time.Sleep(time.Millisecond)
		}
		slices.Reverse(mine)
		page := f.list("?limit=1", as("globex"))
		if got := f.list("", as("read")); !slices.Equal(ids(got), mine) {
			t.Errorf("%v, want %v", ids(got), mine)
		}
		for _, id := range ids(f.list("?cursor="+page.NextCursor, as("read"))) {
			if !slices.Contains(mine, id) {
				t.Errorf("the cursor of another tenant led to %s", id)
			}
		}
		if got := f.list("?id_prefix="+page.Requests[0].CorrelationID, as("read")); len(got.Requests) != 0 {
			t.Error("the whole ID of another tenant's request finds it")
		}
	}, withKeys)
}

func TestListRefuses(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		for _, query := range []string{
			"status=done", "status=", "limit=0", "limit=501", "limit=x", "limit=", "since=yesterday", "until=-1h", "since=", "cursor=x", "cursor=MSAx",
			"id_prefix=xyz", "id_prefix=01a20a5f355f", "id_prefix=-", "service=A", "tag=", "tag=a%20b", "tag=" + strings.Repeat("x", 65),
			"tag=1,2,3,4,5,6,7,8,9", "sort=asc", "limit=1&limit=2", "%zz", "service=echo%00",
		} {
			f.get("/v1/requests?"+query).problem(t, "invalid-option")
		}
		for _, tag := range []string{"", ",", "a,", "a b", "ü", strings.Repeat("x", 65), "1,2,3,4,5,6,7,8,9"} {
			f.post(echoRequests, "x", "Coatcheck-Tag: "+tag).problem(t, "invalid-option")
		}
		if l := f.list("?status=any"); len(l.Requests) != 0 {
			t.Errorf("accepted %v", ids(l))
		}
		f.submit("x", "Coatcheck-Tag: 1,2,3,4,5,6,7,8,1,2")
	})
}

// TestListForgets: what is deleted, and what its retention is over of, is not
// listed, and leaves nothing in Redis.
func TestListForgets(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		gone := f.submit("x").CorrelationID
		f.call("DELETE", "/v1/requests/"+gone, nil)
		for _, key := range f.mini.Keys() {
			if strings.Contains(key, "listing:") {
				t.Errorf("deleted, and listed in %s", key)
			}
		}
		for i := range 3 {
			f.submit("x", fmt.Sprintf("Coatcheck-Retention: %dm", 1+5*i))
			f.echo()
		}
		f.submit("x", "Coatcheck-Timeout: 5s", "Coatcheck-Retention: 1m") // times out
		time.Sleep(10 * time.Second)
		if l := f.list("?status=any"); len(l.Requests) != 4 || l.Requests[0].Status != "timed_out" {
			t.Fatalf("%+v", l)
		}
		time.Sleep(time.Minute)
		if l := f.list("?status=any"); len(l.Requests) != 2 {
			t.Errorf("%d are listed", len(l.Requests))
		}
		if n, _ := f.mini.ZMembers("cc:{0}:listing:succeeded:"); len(n) != 2 {
			t.Errorf("index %v", n)
		}
		time.Sleep(30 * time.Minute)
		for _, key := range f.mini.Keys() {
			if strings.Contains(key, "listing:") || strings.HasSuffix(key, ":tenants") || strings.Contains(key, ":request:") {
				t.Errorf("left behind: %s", key)
			}
		}
	})
}

// TestListWithoutRedis says that it can't tell, not that there is none.
func TestListWithoutRedis(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		f.redis(false)
		for _, path := range []string{"/v1/requests", "/v1/workers", "/v1/services/echo", "/v1/services/echo/openapi.json"} {
			f.get(path).problem(t, "unavailable")
		}
		f.post("/v1/workers/w1/drain", "").problem(t, "unavailable")
	})
}
