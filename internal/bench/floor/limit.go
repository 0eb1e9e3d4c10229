package floor

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/redis/go-redis/v9"
)

const (
	queueStream  = "limit:queue"
	replyStream  = "limit:replies"
	workersGroup = "workers"

	callers     = 64 // callbacks at once
	heartbeat   = 15 * time.Second
	longest     = 60 * time.Second // of a long-poll
	readBlock   = time.Second
	callTimeout = 15 * time.Second
)

// counter makes IDs of the length of a UUID.
type counter struct{ n atomic.Int64 }

func (c *counter) next() string { return fmt.Sprintf("00000000-0000-8000-8000-%012d", c.n.Add(1)) }

// limit is the stripped gateway.
type limit struct {
	commands, reads *redis.Client
	readAll         bool
	ids             counter
	submits         chan *submission // handlers send, flushers receive, nobody closes
	calls           chan *request    // the reader sends, callers receive, nobody closes

	mu       sync.Mutex // guards requests
	requests map[string]*request
}

// request is all that is known of one.
type request struct {
	id       string
	callback string
	done     chan struct{} // closed once reply is there
	reply    []byte
}

// submission is a request on its way to Redis.
type submission struct {
	id    string
	body  []byte
	err   error
	ready chan struct{} // closed once err is set
}

// Limit serves until ctx ends. readAll has bodies read by io.ReadAll, not into a
// buffer of their length.
func Limit(ctx context.Context, addr, redisURL string, readAll bool) error {
	commands, err := connect(redisURL)
	if err != nil {
		return err
	}
	reads, err := connect(redisURL)
	if err != nil {
		return err
	}
	l := &limit{
		commands: commands, reads: reads, readAll: readAll, requests: map[string]*request{},
		submits: make(chan *submission, batch), calls: make(chan *request, 1<<20),
	}
	if err := group(ctx, commands); err != nil {
		return err
	}
	for range flushers {
		go l.flush(ctx)
	}
	for range callers {
		go l.call(ctx)
	}
	go l.read(ctx)
	r := chi.NewRouter()
	r.Post("/v1/services/{service}/requests", l.submit)
	r.Get("/v1/requests/{id}", l.status)
	r.Get("/v1/requests/{id}/events", l.events)
	return serve(ctx, addr, r)
}

func connect(url string) (*redis.Client, error) {
	o, err := redis.ParseURL(url)
	if err != nil {
		return nil, fmt.Errorf("redis: %w", err)
	}
	o.PoolSize, o.MaxRetries, o.DisableIdentity = pool, -1, true
	return redis.NewClient(o), nil
}

// group makes the stream and its group; that it is there already is no error.
func group(ctx context.Context, c *redis.Client) error {
	err := c.XGroupCreateMkStream(ctx, queueStream, workersGroup, "0").Err()
	if err != nil && !redis.HasErrorPrefix(err, "BUSYGROUP") {
		return fmt.Errorf("make the group: %w", err)
	}
	return nil
}

func (l *limit) submit(w http.ResponseWriter, r *http.Request) {
	read := sized
	if l.readAll {
		read = func(r *http.Request) ([]byte, error) { return io.ReadAll(r.Body) }
	}
	body, err := read(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	q := &request{id: l.ids.next(), callback: r.Header.Get("Coatcheck-Callback-Url"), done: make(chan struct{})}
	l.mu.Lock()
	l.requests[q.id] = q
	l.mu.Unlock()
	s := &submission{id: q.id, body: body, ready: make(chan struct{})}
	l.submits <- s
	<-s.ready
	if s.err != nil {
		http.Error(w, s.err.Error(), http.StatusServiceUnavailable)
		return
	}
	accepted(w, q.id)
}

// flush commits submits together: those that come while a pipeline is under way.
func (l *limit) flush(ctx context.Context) {
	for {
		var all []*submission
		select {
		case <-ctx.Done():
			return
		case s := <-l.submits:
			all = append(all, s)
		}
		for size := len(all[0].body); len(all) < batch && size < maxBytes; {
			select {
			case s := <-l.submits:
				all, size = append(all, s), size+len(s.body)
				continue
			default:
			}
			break
		}
		pipe := l.commands.Pipeline()
		added := make([]*redis.StringCmd, len(all))
		for i, s := range all {
			added[i] = pipe.XAdd(ctx, &redis.XAddArgs{Stream: queueStream, Values: []any{"id", s.id, "body", s.body}})
		}
		_, _ = pipe.Exec(ctx) // each has its own error
		for i, s := range all {
			s.err = added[i].Err()
			close(s.ready)
		}
	}
}

// read takes replies and wakes who waits for them.
func (l *limit) read(ctx context.Context) {
	for last := "0"; ctx.Err() == nil; {
		found, err := l.reads.XRead(ctx, &redis.XReadArgs{Streams: []string{replyStream, last}, Count: batch, Block: readBlock}).Result()
		if err != nil {
			continue // nothing came
		}
		entries := make([]string, 0, batch)
		l.mu.Lock()
		for _, m := range found[0].Messages {
			entries, last = append(entries, m.ID), m.ID
			id, _ := m.Values["id"].(string)
			body, _ := m.Values["body"].(string)
			if q := l.requests[id]; q != nil {
				q.reply = []byte(body)
				close(q.done)
				if q.callback != "" {
					l.calls <- q
				}
			}
		}
		l.mu.Unlock()
		l.commands.XDel(ctx, replyStream, entries...)
	}
}

// call posts callbacks as they are.
func (l *limit) call(ctx context.Context) {
	c := &http.Client{Timeout: callTimeout}
	for {
		select {
		case <-ctx.Done():
			return
		case q := <-l.calls:
			body := append(append([]byte(`{"type":"request.succeeded","data":`), q.document()...), '}')
			r, err := http.NewRequestWithContext(ctx, http.MethodPost, q.callback, bytes.NewReader(body))
			if err != nil {
				continue
			}
			r.Header.Set("Content-Type", "application/json")
			r.Header.Set("X-Correlation-ID", q.id)
			if answer, err := c.Do(r); err == nil {
				answer.Body.Close()
			}
		}
	}
}

func (l *limit) find(r *http.Request) *request {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.requests[chi.URLParam(r, "id")]
}

// document is the status document.
func (q *request) document() []byte {
	select {
	case <-q.done:
		b := make([]byte, 0, len(q.reply)+128)
		b = append(b, `{"correlation_id":"`+q.id+`","status":"succeeded","attempt":1,"reply":{"encoding":"json","body":`...)
		return append(append(b, q.reply...), "}}"...)
	default:
		return []byte(`{"correlation_id":"` + q.id + `","status":"queued","attempt":1}`)
	}
}

// status answers polls and long-polls.
func (l *limit) status(w http.ResponseWriter, r *http.Request) {
	q := l.find(r)
	if q == nil {
		http.NotFound(w, r)
		return
	}
	if r.URL.RawQuery != "" {
		late := time.NewTimer(longest)
		defer late.Stop()
		select {
		case <-q.done:
		case <-late.C:
		case <-r.Context().Done():
		}
	}
	document := q.document()
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(document)))
	_, _ = w.Write(document)
}

// events is the stream: where the request stands, then nothing but heartbeats until
// the outcome.
func (l *limit) events(w http.ResponseWriter, r *http.Request) {
	q := l.find(r)
	if q == nil {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	out := http.NewResponseController(w)
	if _, err := fmt.Fprintf(w, "event: status\ndata: %s\n\n", q.document()); err != nil || out.Flush() != nil {
		return
	}
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	for {
		select {
		case <-q.done:
			_, _ = fmt.Fprintf(w, "event: outcome\nid: 1\ndata: %s\n\n", q.document())
			return
		case <-beat.C:
			if _, err := io.WriteString(w, ": heartbeat\n\n"); err != nil || out.Flush() != nil {
				return
			}
		case <-r.Context().Done():
			return
		}
	}
}
