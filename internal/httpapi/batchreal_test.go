package httpapi_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/httpapi"
	"github.com/coatcheck/coatcheck/internal/redistest"
	"github.com/coatcheck/coatcheck/internal/steward"
	"github.com/coatcheck/coatcheck/internal/watch"
)

// TestBatchOnRedis: a thousand items over four partitions of a real Redis share
// pipelines on their way in, are answered, counted and told of each once; and when
// all that was kept is forgotten, nothing is left.
func TestBatchOnRedis(t *testing.T) {
	quiet := slog.New(slog.DiscardHandler)
	redis := redistest.Start(t)
	b, err := broker.Open(t.Context(), broker.Options{
		URL: redis.URL, Logger: quiet, Partitions: 4,
		Services: map[string]broker.ServiceConfig{"echo": {Retention: time.Second, Timeout: 30 * time.Second}},
	})
	if err != nil {
		t.Fatal(err)
	}
	hub := watch.New(b, quiet)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	server := httpapi.NewHTTPServer(httpapi.New(httpapi.Options{Broker: b, Hub: hub, Logger: quiet}), quiet)
	var all sync.WaitGroup
	for _, run := range []func(){func() { b.Run(ctx) }, func() { hub.Run(ctx) }, func() { steward.New(b, quiet).Run(ctx) }, func() { server.Serve(l) }} {
		all.Go(run)
	}
	t.Cleanup(func() { server.Close(); stop(); all.Wait(); b.Close() })
	url := "http://" + l.Addr().String()
	call := func(method, path, body string) []byte {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, url+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/x-ndjson")
		response, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		raw, err := io.ReadAll(response.Body)
		if err != nil || response.StatusCode > 299 {
			t.Fatalf("%s %s: %d %s %v", method, path, response.StatusCode, raw, err)
		}
		return raw
	}
	reads := func() int { // from sockets: a pipeline that arrives together is one, or few
		found := regexp.MustCompile(`total_reads_processed:(\d+)`).FindStringSubmatch(redis.Client.Info(t.Context(), "stats").Val())
		n, _ := strconv.Atoi(found[1])
		return n
	}
	call("POST", "/v1/batches", `{"service":"nobody"}`) // loads the scripts

	var lines strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&lines, "{\"service\":\"echo\",\"body\":%d}\n", i)
	}
	before := reads()
	var answer api.BatchAnswer
	if err := json.Unmarshal(call("POST", "/v1/batches", lines.String()), &answer); err != nil || answer.Accepted != 1000 {
		t.Fatalf("%d are accepted, %v", answer.Accepted, err)
	}
	if used := reads() - before; used > 500 { // stewards and samplers read, too
		t.Errorf("1000 items took %d reads from sockets", used)
	}

	events, err := http.Get(url + answer.Links.Events)
	if err != nil {
		t.Fatal(err)
	}
	defer events.Body.Close()
	all.Go(func() {
		for done := 0; done < 1000 && ctx.Err() == nil; {
			got, err := b.Claim(ctx, "w", []string{"echo"}, 100, time.Second)
			if err != nil {
				return
			}
			for _, d := range got {
				kind := "final"
				if string(d.Body) == "7" {
					kind = "failed"
				}
				if b.Send(ctx, d, broker.WorkerReply{Type: kind}) != nil {
					return
				}
				done++
			}
		}
	})
	told := map[int]int{}
	var last api.Batch
	kind := ""
	for scanner := bufio.NewScanner(events.Body); scanner.Scan(); {
		if k, ok := strings.CutPrefix(scanner.Text(), "event: "); ok {
			kind = k
		}
		data, ok := strings.CutPrefix(scanner.Text(), "data: ")
		switch {
		case ok && kind == "item":
			var item api.BatchItemOutcome
			if err := json.Unmarshal([]byte(data), &item); err != nil || answer.Items[item.Number].CorrelationID != item.CorrelationID {
				t.Errorf("%s: %v", data, err)
			}
			told[item.Number]++
		case ok && kind == "outcome":
			json.Unmarshal([]byte(data), &last)
		}
	}
	for number, n := range told {
		if n != 1 {
			t.Errorf("item %d is told of %d times", number, n)
		}
	}
	if len(told) != 1000 || last.Succeeded != 999 || last.Failed != 1 || !last.Complete {
		t.Errorf("%d items are told of, and %+v", len(told), last)
	}

	// What is kept of the batch has its end; bring that forward instead of waiting.
	for _, key := range redis.Keys(t) {
		if !strings.Contains(key, answer.BatchID) {
			continue
		}
		left := redis.Client.PTTL(t.Context(), key).Val()
		if left <= 0 || left > 3*time.Minute {
			t.Errorf("%s is kept for %v", key, left)
		}
		redis.Client.PExpire(t.Context(), key, time.Millisecond)
	}
	for end := time.Now().Add(20 * time.Second); ; {
		var kept []string
		for _, key := range redis.Keys(t) {
			if strings.Contains(key, ":request:") || strings.Contains(key, answer.BatchID) {
				kept = append(kept, key)
			}
		}
		if len(kept) == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d keys are left, such as %s", len(kept), kept[0])
		}
	}
}
