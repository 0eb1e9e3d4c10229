package broker

import (
	"sync"
	"time"
)

// registerEvery is how often a process has a tenant registered in a partition,
// for Prune to find its listing. prune.lua forgets a tenant without requests
// only after twice that time.
const registerEvery = time.Minute

// tenants remembers which registrations are recent, so that a submit seldom
// costs one.
type tenants struct {
	mu sync.Mutex // guards at
	at map[tenantHome]time.Time
}

type tenantHome struct {
	tenant string
	home   partition
}

func (t *tenants) due(tenant string, home partition) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return time.Since(t.at[tenantHome{tenant, home}]) >= registerEvery
}

func (t *tenants) registered(tenant string, home partition) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.at == nil {
		t.at = map[tenantHome]time.Time{}
	}
	t.at[tenantHome{tenant, home}] = time.Now()
}

// forget is called when Redis lost its data.
func (t *tenants) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.at = nil
}
