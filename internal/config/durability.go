package config

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Durability is what Redis must have done with a request before its 202: auto,
// memory, local, fsync, or replicated(n).
type Durability string

// longestDurabilityWait is within the time that an answer of Redis may take.
const longestDurabilityWait = 2 * time.Second

const durabilities = "auto, memory, local, fsync or replicated(n), n being 1 to 9"

var replicated = regexp.MustCompile(`^replicated\(([1-9])\)$`)

// UnmarshalText reads a mode.
func (d *Durability) UnmarshalText(text []byte) error {
	*d = Durability(text)
	if !d.known() {
		return wrong{string(text), "one of " + durabilities}
	}
	return nil
}

func (d Durability) known() bool {
	switch d {
	case "auto", "memory", "local", "fsync":
		return true
	}
	return replicated.MatchString(string(d))
}

// Mode is the mode without its number, and Replicas the number, 0 where it has none.
func (d Durability) Mode() string {
	mode, _, _ := strings.Cut(string(d), "(")
	return mode
}

// Replicas is how many must have it.
func (d Durability) Replicas() int {
	if found := replicated.FindStringSubmatch(string(d)); found != nil {
		n, _ := strconv.Atoi(found[1])
		return n
	}
	return 0
}

func (c Config) checkDurability() error {
	switch {
	case !c.Durability.known():
		return fmt.Errorf("durability: %q is none of %s", string(c.Durability), durabilities)
	case c.DurabilityWait < time.Millisecond || c.DurabilityWait > longestDurabilityWait:
		return fmt.Errorf("durability_wait: %s is outside 1ms..%s", c.DurabilityWait, longestDurabilityWait)
	case c.DurabilityAsserted && c.Durability == "auto":
		return errors.New("durability_asserted: is set, and durability does not say what is asserted; want memory, local, fsync or replicated(n)")
	}
	return nil
}
