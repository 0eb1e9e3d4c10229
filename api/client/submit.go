package client

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/coatcheck/coatcheck/api"
)

// Request is what Submit hands in. Zero values leave what the gateway has set.
type Request struct {
	ContentType    string
	Body           []byte
	IdempotencyKey string            // default: a random one a call
	Header         map[string]string // further headers, such as traceparent; not Prefer, the answer is always a status

	Timeout, StartTimeout, RunTimeout, Retention, Backoff time.Duration

	MaxAttempts int
	Delay       time.Duration // accepted → in line; the other clocks start when it is over
	Priority    string        // high, normal or low
	// At most one of the two: requests with one key run one after the other in the
	// order accepted, or as many at once as the service allows.
	OrderingKey, ConcurrencyKey string

	// CacheControl is for services that share replies: no-cache, no-store,
	// max-age=60, only-if-cached (RFC 9111, section 5.2.1).
	CacheControl string

	CallbackURL    string
	CallbackEvents []string // of api.CallbackEventNames; default: the four outcomes

	Tags []string // to find it in the listing by

	Minimal bool // the outcome is wanted, the reply is not kept
}

// Submit hands a request in. The status has its correlation ID.
//
// An error that is no api.Problem, or one of the types internal and
// effect-unknown, leaves open whether the request was accepted. Whoever must
// know sets an IdempotencyKey and submits the same again.
func (c *Client) Submit(ctx context.Context, service string, r Request) (api.Status, error) {
	s, _, err := c.document(ctx, http.MethodPost, "/v1/services/"+url.PathEscape(service)+"/requests", r.headers(), r.Body)
	return s, err
}

func (r Request) headers() http.Header {
	h := http.Header{}
	set := func(name, value string) {
		if value != "" {
			h.Set(name, value)
		}
	}
	for name, value := range r.Header {
		h.Set(name, value)
	}
	h.Del(api.HeaderPrefer)
	if r.Minimal {
		h.Set(api.HeaderPrefer, "return=minimal")
	}
	set("Content-Type", r.ContentType)
	for name, d := range map[string]time.Duration{
		api.HeaderTimeout: r.Timeout, api.HeaderStartTimeout: r.StartTimeout,
		api.HeaderRunTimeout: r.RunTimeout, api.HeaderRetention: r.Retention,
		api.HeaderBackoff: r.Backoff, api.HeaderDelay: r.Delay,
	} {
		if d != 0 { // a negative one is the gateway's to refuse
			h.Set(name, d.String())
		}
	}
	if r.MaxAttempts != 0 {
		h.Set(api.HeaderMaxAttempts, strconv.Itoa(r.MaxAttempts))
	}
	set(api.HeaderPriority, r.Priority)
	set("Cache-Control", r.CacheControl)
	set(api.HeaderOrderingKey, r.OrderingKey)
	set(api.HeaderConcurrencyKey, r.ConcurrencyKey)
	set(api.HeaderCallbackURL, r.CallbackURL)
	set(api.HeaderCallbackEvents, strings.Join(r.CallbackEvents, ","))
	set(api.HeaderTag, strings.Join(r.Tags, ","))
	set(api.HeaderIdempotencyKey, r.IdempotencyKey)
	if h.Get(api.HeaderIdempotencyKey) == "" {
		var raw [16]byte
		rand.Read(raw[:])
		h.Set(api.HeaderIdempotencyKey, hex.EncodeToString(raw[:]))
	}
	return h
}
