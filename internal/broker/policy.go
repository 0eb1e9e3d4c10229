package broker

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// Priority is how large a share of the line a request gets, see line.lua: of
// every 21 places that are fought for, high takes 16, normal 4 and low 1, so low
// is slow and never starves.
type Priority string

// The priorities. The zero value counts as PriorityNormal.
const (
	PriorityHigh   Priority = "high"
	PriorityNormal Priority = "normal"
	PriorityLow    Priority = "low"
)

// Priorities are all of them, highest first.
var Priorities = []Priority{PriorityHigh, PriorityNormal, PriorityLow}

var weights = map[Priority]int{PriorityHigh: 16, PriorityNormal: 4, PriorityLow: 1}

// The scores in the zset of those that wait, see line.lua.
const (
	firstInstant = "900000000000"
	gated        = "9007199254740991"
)

// policyOf writes what holds for a request while it waits, see record.lua, or
// "" for nothing: such a request goes straight to the stream.
func policyOf(s *Submission, plan *ServiceConfig) string {
	priority := cmp.Or(s.Priority, PriorityNormal)
	tenant := s.Tenant
	if tenant == DefaultTenant {
		tenant = ""
	}
	flow := ""
	if tenant != "" || priority != PriorityNormal {
		flow = string(priority) + " " + tenant
	}
	gate, limit := "-", 0
	switch {
	case s.OrderingKey != "":
		gate, limit = gateOf("o", s.Tenant, s.OrderingKey), 1
	case s.ConcurrencyKey != "":
		gate, limit = gateOf("c", s.Tenant, s.ConcurrencyKey), plan.KeyConcurrency
	}
	if flow == "" && gate == "-" {
		return ""
	}
	return fmt.Sprintf("%d %d %s %s", weights[priority], limit, gate, flow)
}

// gateOf names a gate: one tenant's key is not another's.
func gateOf(kind, tenant, key string) string {
	sum := sha256.Sum256([]byte(tenant + "\x00" + key))
	return kind + hex.EncodeToString(sum[:12])
}

// priorityIn reads the priority back from what policyOf wrote.
func priorityIn(policy string) Priority {
	if policy == "" {
		return PriorityNormal
	}
	f := strings.SplitN(policy, " ", 5)
	if len(f) < 4 || f[3] == "" {
		return PriorityNormal
	}
	return Priority(f[3])
}

// gateIn reads the gate back, "-" for none.
func gateIn(policy string) string {
	if f := strings.SplitN(policy, " ", 4); len(f) == 4 {
		return f[2]
	}
	return "-"
}
