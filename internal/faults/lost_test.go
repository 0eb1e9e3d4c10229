package faults_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coatcheck/coatcheck/api/worker"
	"github.com/coatcheck/coatcheck/internal/config"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

const leastLost = 1000 // answers

// losses is how often the answer to each submit is still to be lost, by its key,
// which is in its bodies.
type losses struct {
	mu   sync.Mutex // guards the rest
	left map[string]int
	lost int
}

var keys = regexp.MustCompile(`lost-\d+-`)

// lose tells of bytes on their way to Redis whether the answer is to be lost.
func (l *losses) lose(sent []byte) (doomed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, key := range slices.Compact(keys.FindAllString(string(sent), -1)) {
		if l.left[key] > 0 {
			l.left[key]--
			l.lost++
			doomed = true
		}
	}
	return doomed
}

// lost loses the answers of submits that Redis has run, one to five times for a
// key, a thousand in all: up to three are sent again by the gateway, beyond that by the client.
//
// Planted: a nonce of its own for each try of a gateway, so that the second is a
// request of its own where there is no key to stop it; keys that are not bound.
func lost(r *round) {
	h := open(r, redistest.Start(r), func(c *config.Config) { c.Defaults.Lease = time.Minute })
	h.work(h.redis.URL, func(w *worker.Worker) { w.Handle("twin", h.echo) })
	h.announced("twin")
	l := &losses{left: map[string]int{}}
	all := of(500, 60)
	for n := range all {
		l.left[fmt.Sprintf("lost-%d-", n)] = 1 + min(r.draw(4), r.draw(5))
	}
	planned := 0
	for _, n := range l.left {
		planned += n
	}
	for n := 0; planned < of(leastLost, 0); n++ { // where less was drawn
		l.left[fmt.Sprintf("lost-%d-", n)]++
		planned++
	}
	for _, g := range h.gates { // not of workers, whose replies have the keys in them as well
		g.proxy.Lose(l.lose)
	}
	var clients sync.WaitGroup
	jobs := make(chan int)
	var mu sync.Mutex // guards ids and tries
	ids, tries := map[int]string{}, 0
	for range 16 {
		clients.Go(func() {
			for n := range jobs {
				id, tried := h.insist(n)
				mu.Lock()
				ids[n], tries = id, tries+tried
				mu.Unlock()
			}
		})
	}
	for n := range all {
		jobs <- n
	}
	close(jobs)
	clients.Wait()
	h.on((*redistest.Proxy).Heal)
	seen := map[string]int{}
	for n := range all {
		id, _ := h.insist(n)
		if id != ids[n] {
			h.Errorf("submitted again, %d is %s, and was %s", n, id, ids[n])
		}
		for one := range strings.FieldsSeq(id) {
			if seen[one]++; seen[one] > 1 {
				h.Errorf("%s is of two keys", one)
			}
			if a := h.get(h.gates[0], "/v1/requests/"+one+"?wait=30s"); a.status().Status != "succeeded" {
				h.Errorf("%s: %d %s", one, a.code, a.body)
			}
		}
	}
	expected := 0
	for body, n := range h.runs() {
		if !strings.HasPrefix(body, "lost-") {
			continue
		}
		want := 1
		if strings.HasSuffix(body, "scattered") {
			want = 2 // one a service
		}
		if expected += want; n != want {
			h.Errorf("%q ran %d times, want %d", body, n, want)
		}
	}
	if l.lost < planned {
		h.Errorf("%d answers were lost, want %d", l.lost, planned)
	}
	r.finds("%d answers lost of %d keys (one, scattered, batched), %d tries of their clients; %d runs, none twice", l.lost, all, tries, expected)
}

// insist submits n, of one of three kinds, until it is accepted. It returns the IDs
// and how often it tried.
func (h *house) insist(n int) (ids string, tries int) {
	key, path, body := fmt.Sprintf("lost-%d-", n), "/v1/services/echo/requests", ""
	switch n % 5 {
	case 3:
		path, body = "/v1/scatter?services=echo,twin", key+"scattered"
	case 4:
		path, body = "/v1/batches", fmt.Sprintf(`[{"service":"echo","encoding":"text","body":"%[1]sa"},{"service":"twin","encoding":"text","body":"%[1]sb"}]`, key)
	default:
		body = key + "one"
	}
	for ; ; tries++ {
		a, err := call(h.Context(), "POST", h.gates[(n+tries)%len(h.gates)].url+path, body, "Idempotency-Key", key, "Content-Type", "application/json")
		switch {
		case err != nil || tries > 50 || a.code >= 400 && a.code < 500:
			h.Errorf("submit %d: %d %s, %v", n, a.code, a.body, err)
			return "", tries
		case a.code == http.StatusAccepted && n%5 != 4:
			return a.status().CorrelationID, tries + 1
		case a.code < 300:
			var batch struct {
				Items []struct {
					CorrelationID string `json:"correlation_id"`
				}
			}
			if err := json.Unmarshal([]byte(a.body), &batch); err != nil {
				h.Errorf("batch %d: %s", n, a.body)
			}
			for _, item := range batch.Items {
				if item.CorrelationID != "" {
					ids += item.CorrelationID + " "
				}
			}
			if len(strings.Fields(ids)) == 2 {
				return ids, tries + 1
			}
			ids = "" // an item that is unknown is asked for again
		}
	}
}
