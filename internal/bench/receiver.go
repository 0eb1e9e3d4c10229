package bench

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/api/webhook"
)

const (
	receivePath  = "/callbacks/"
	receiveLimit = 10 * time.Second
)

// receiver takes callbacks in. The URL of each names the client that waits for
// it and the number of its request, so that it is known before its 202 is read.
type receiver struct {
	run      *run
	base     string
	server   *http.Server
	waiting  []chan called // by client; set before the server runs
	unsigned sync.Once
}

// called is a callback that came.
type called struct {
	n  int
	at time.Time
}

func listen(r *run) (*receiver, error) {
	l, err := net.Listen("tcp", r.Receiver.Listen)
	if err != nil {
		return nil, fmt.Errorf("%w: listen for callbacks: %w", ErrOptions, err)
	}
	v := &receiver{run: r, base: strings.TrimRight(r.Receiver.URL, "/"), waiting: make([]chan called, r.Clients)}
	if v.base == "" {
		v.base = "http://" + l.Addr().String()
	}
	for i := range v.waiting {
		v.waiting[i] = make(chan called, 1)
	}
	v.server = &http.Server{Handler: v, ReadHeaderTimeout: receiveLimit, ReadTimeout: receiveLimit}
	go func() { _ = v.server.Serve(l) }() // until close
	return v, nil
}

func (v *receiver) close() { _ = v.server.Close() }

func (v *receiver) register(client int) chan called { return v.waiting[client] }

// url is that of a client's callbacks; the number follows.
func (v *receiver) url(client int) string { return v.base + receivePath + strconv.Itoa(client) + "/" }

func (v *receiver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	at := time.Now()
	client, n, ok := parsePath(r.URL.Path)
	if !ok || client >= len(v.waiting) {
		http.NotFound(w, r)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxAnswer))
	if err != nil {
		http.Error(w, "the body can't be read", http.StatusBadRequest)
		return
	}
	if !v.run.Receiver.Unsigned {
		if err := webhook.Verify(r.Header, body, v.run.Receiver.Secrets...); err != nil {
			v.unsigned.Do(func() {
				v.run.fatal(fmt.Errorf("a callback can't be verified: %w; is this the gateway's secret?", err))
			})
			http.Error(w, "bad signature", http.StatusUnauthorized)
			return
		}
	}
	w.WriteHeader(http.StatusNoContent)
	v.run.book.answer(n, v.run.judgeCall(body, r.Header.Get(api.HeaderCorrelationID), n))
	select {
	case v.waiting[client] <- called{n, at}:
	default: // it has one to look at; this is one of an earlier request
	}
}

// judgeCall judges a callback's body. A reply that is too large for it is taken
// for the right one: nobody else can know.
func (r *run) judgeCall(body []byte, id string, n int) verdict {
	switch v := judge(body, id, r.payload.of(n)); v {
	case linked:
		return rightReply
	case pending: // a callback of an outcome has one
		return wrongReply
	default:
		return v
	}
}

// parsePath reads /callbacks/<client>/<number>.
func parsePath(path string) (client, n int, ok bool) {
	first, second, ok := strings.Cut(strings.TrimPrefix(path, receivePath), "/")
	client, err := strconv.Atoi(first)
	if err != nil || client < 0 || !ok || !strings.HasPrefix(path, receivePath) {
		return 0, 0, false
	}
	n, err = strconv.Atoi(second)
	return client, n, err == nil && n >= 0
}
