package broker

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/coatcheck/coatcheck/api"
)

// CacheControl says which reply to an earlier request will do; its words are those
// of RFC 9111, section 5.2.1.
type CacheControl struct {
	NoStore      bool          // run alone: nothing cached, and nothing is kept for others
	NoCache      bool          // nothing cached, and no run that has begun; others may share this one
	MaxAge       time.Duration // oldest cached reply that will do; 0 for any
	OnlyIfCached bool          // ErrNotCached instead of a run
}

// How a request of a service that shares replies got its own, in Record.Cache.
const (
	CacheMiss   = "miss"   // it has a run of its own, which others may share
	CacheShared = "shared" // it joined the run of an earlier one
	CacheHit    = "hit"    // a cached reply answered it
)

// sharing is what submit.lua is told of the sharing of a request, "" for none, and
// the hash of its content. A request that has its own turn to wait for, by an
// ordering key or a delay, shares nothing, nor one that wants no reply.
func (b *Broker) sharing(s *Submission, plan *ServiceConfig) (content, text string) {
	caches := plan.CacheTTL > 0 || b.shared.Load().cacheable[s.Service]
	if !caches && !plan.Coalesce || s.Cache.NoStore || s.Minimal || s.OrderingKey != "" || s.Delay > 0 {
		return "", ""
	}
	age := int64(math.MaxInt32) * 1000
	switch {
	case s.Cache.NoCache:
		age = -1
	case s.Cache.MaxAge > 0:
		age = s.Cache.MaxAge.Milliseconds()
	}
	content = contentOf(s, plan)
	return content, fmt.Sprintf("%s %d %d %d %d %d", content, plan.CacheTTL.Milliseconds(),
		flag(plan.Coalesce && !s.Cache.NoCache), flag(plan.Coalesce), age, flag(s.Cache.OnlyIfCached))
}

// contentOf tells requests apart by all that a worker may answer them by: tenant,
// service, content type, target, body and the headers that the service names. The
// concurrency key is among them: a run counts for one key.
func contentOf(s *Submission, plan *ServiceConfig) string {
	h := sha256.New()
	part := func(text string) {
		var size [8]byte
		binary.BigEndian.PutUint64(size[:], uint64(len(text)))
		h.Write(size[:])
		h.Write([]byte(text))
	}
	for _, text := range []string{tenantText(s.Tenant), s.Service, s.ContentType, s.ConcurrencyKey, s.Headers[api.TargetMethod], s.Headers[api.TargetPath]} {
		part(text)
	}
	for _, name := range slices.Sorted(slices.Values(plan.CacheHeaders)) {
		part(name)
		part(s.Headers[strings.ToLower(name)])
	}
	h.Write(s.Body)
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// remember has every gateway share the replies of services whose workers said how
// long theirs may be cached. Only a service that was not known for it is a fact.
func (b *Broker) remember(ctx context.Context, facts []Fact) {
	for _, f := range facts {
		if f.Kind != "cacheable" || b.shared.Load().cacheable[f.Service] {
			continue
		}
		if err := b.redis.commands.SAdd(ctx, cacheableKey, f.Service).Err(); err != nil {
			b.log.Debug("remember that replies of a service may be cached", "service", f.Service, "error", err)
		}
	}
}
