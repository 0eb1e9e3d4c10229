package broker

import (
	"context"
	"strconv"
	"time"
)

// Refresh re-reads what the gateways share, as Run does.
func Refresh(ctx context.Context, b *Broker) error { return b.refresh(ctx) }

// EntryAt is the ID of a stream entry that Redis took then.
func EntryAt(t time.Time) string { return strconv.FormatInt(t.UnixMilli(), 10) + "-0" }
