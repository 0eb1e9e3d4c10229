package broker

import (
	"strconv"

	"github.com/coatcheck/coatcheck/internal/correlation"
)

// All keys of coatcheck start with cc:. Those of a partition carry its hash tag
// {p}, so that one partition lives in one slot of a Redis Cluster and one
// script may touch all of it. prelude.lua builds the same names.
const (
	configKey      = "cc:config"    // hash: what all gateways of a deployment agree on
	servicesKey    = "cc:services"  // hash: service → what is known of it, as JSON
	wakeChannel    = "cc:wake:"     // + gateway: IDs whose state changed, each behind a space; see told in outcome.lua
	cancelChannel  = "cc:cancel:"   // + service: ID of a request that ended while claimed
	pausedKey      = "cc:paused"    // hash: service → since when it is paused, in ms
	cacheableKey   = "cc:cacheable" // set: services whose workers said how long a reply may be cached
	stewardChannel = "cc:stewards"  // number of a partition whose upkeep was given up
	gatewaysKey    = "cc:gateways"  // hash: gateway that does upkeep → "when it said so in ms, partitions that it has"

	workersKey      = "cc:workers"      // stream: what workers say of themselves, for as long as it counts
	drainingKey     = "cc:draining"     // hash: worker that was told to drain → when, in ms
	descriptionsKey = "cc:descriptions" // hash: service → what its workers say of it, as JSON
	drainChannel    = "cc:drain:"       // + worker: it is to drain
)

// commonKeys are those of no partition: in a Redis Cluster each is in a slot of its own,
// so a command has one of them.
var commonKeys = []string{configKey, servicesKey, pausedKey, cacheableKey, workersKey, drainingKey, descriptionsKey, gatewaysKey}

// The consumer groups of the streams that are shared out.
const (
	workersGroup    = "workers"
	deliverersGroup = "deliverers"
)

// partition names the keys of one shard of the correlation table. Its tag is its number,
// with a suffix where that puts it into the right slot, see slots.go.
type partition struct{ number, suffix int }

func (p partition) tag() string {
	if p.suffix == 0 {
		return strconv.Itoa(p.number)
	}
	return strconv.Itoa(p.number) + "." + strconv.Itoa(p.suffix)
}

func (p partition) prefix() string  { return "cc:{" + p.tag() + "}:" }
func (p partition) due() string     { return p.prefix() + "due" }
func (p partition) clocks() string  { return p.prefix() + "clocks" }
func (p partition) replies() string { return p.prefix() + "replies" }
func (p partition) steward() string { return p.prefix() + "steward" }
func (p partition) limits() string  { return p.prefix() + "limits" }
func (p partition) kept() string    { return p.prefix() + "kept" }
func (p partition) fence() string   { return p.prefix() + "fence" } // never there between two commands
func (p partition) aside() string   { return p.prefix() + "aside" }
func (p partition) counts() string  { return p.prefix() + "counts" }
func (p partition) tenants() string { return p.prefix() + "tenants" }

// listing is the index of a tenant's requests: status is "open", or an outcome.
func (p partition) listing(status, tenant string) string {
	return p.prefix() + "listing:" + status + ":" + tenantText(tenant)
}

func (p partition) graves() string                   { return p.prefix() + "graves" }
func (p partition) redrives() string                 { return p.prefix() + "redrives" }
func (p partition) redrive(id correlation.ID) string { return p.prefix() + "redrive:" + id.String() }
func (p partition) callbacks() string                { return p.prefix() + "callbacks" }
func (p partition) request(id correlation.ID) string { return p.prefix() + "request:" + id.String() }
func (p partition) record(name string) string        { return p.prefix() + "request:" + name } // of a leg or a shared run too
func (p partition) queue(service string) string      { return p.prefix() + "queue:" + service }
func (p partition) waiting(service string) string    { return p.prefix() + "waiting:" + service }
func (p partition) idempotency(hash string) string   { return p.prefix() + "idempotency:" + hash }

// batch is of the same batch as open:<id> and outcomes:<id>, see outcome.lua.
func (p partition) batch(id correlation.ID) string { return p.prefix() + "batch:" + id.String() }

func (p partition) gate(service, gate string) string {
	return p.prefix() + "gate:" + service + ":" + gate
}
