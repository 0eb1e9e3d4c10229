package broker

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coatcheck/coatcheck/internal/correlation"
)

// Limits of one script. They bound for how long it keeps Redis busy.
const (
	pruneBatch = 128
	purgeBatch = 64
)

var (
	deadlettersScript = newScript("deadletters")
	clearScript       = newScript("clear")
	purgeScript       = newScript("purge")
)

// DeadFilter chooses among the dead letters of a tenant.
type DeadFilter struct {
	Tenant, Service string // Service "" for all
	Code            string // of the error, "" for any
}

func (f DeadFilter) args() []any {
	if f.Tenant == DefaultTenant {
		f.Tenant = ""
	}
	return []any{f.Tenant, f.Service, f.Code}
}

// DeadLetter is a request that failed or timed out and was not redriven.
type DeadLetter struct {
	ID          correlation.ID
	Service     string
	Status      Status
	Attempt     int
	Error       Error
	Created     time.Time
	Finished    time.Time
	Expires     time.Time
	ContentType string
	Size        int // of the body, in bytes
}

// DeadPlace is a place in the list; the zero value stands before the newest.
type DeadPlace struct {
	At time.Time
	ID correlation.ID
}

// DeadLetters lists dead letters, newest first, from a place on. ErrUnavailable.
func (b *Broker) DeadLetters(ctx context.Context, f DeadFilter, from DeadPlace, most int) ([]DeadLetter, error) {
	if err := b.Ready(); err != nil {
		return nil, err
	}
	at, id := "+inf", ""
	if !from.At.IsZero() {
		at, id = strconv.FormatInt(from.At.UnixMilli(), 10), from.ID.String()
	}
	var all []DeadLetter
	for _, p := range b.parts() {
		raw, err := deadlettersScript.run(ctx, b.redis, p, []string{p.graves()}, append(f.args(), most, at, id)...)
		if err != nil {
			return nil, fault("list dead letters", err)
		}
		list, _ := raw.([]any)
		for _, one := range list {
			v := texts(one)
			id, err := correlation.Parse(v[0])
			if err != nil {
				continue // nobody but a person at the keys wrote that
			}
			d := DeadLetter{
				ID: id, Service: v[1], Error: Error{Code: validText(v[2]), Message: validText(v[3])}, Status: Status(v[4]),
				Attempt: int(number(v[5])), Created: millis(v[6]), Finished: millis(v[7]), ContentType: validText(v[9]), Size: int(number(v[10])),
			}
			d.Expires = d.Finished.Add(msec(v[8]))
			all = append(all, d)
		}
	}
	slices.SortFunc(all, func(x, y DeadLetter) int {
		return cmp.Or(y.Finished.Compare(x.Finished), strings.Compare(y.ID.String(), x.ID.String()))
	})
	return all[:min(most, len(all))], nil
}

// Purge forgets up to most dead letters, oldest first, in small steps; left says
// whether there are more. ErrUnavailable: n are forgotten, perhaps a few more.
func (b *Broker) Purge(ctx context.Context, f DeadFilter, most int) (n int, left bool, err error) {
	if err := b.Ready(); err != nil {
		return 0, false, err
	}
	for _, p := range b.parts() {
		for more := true; more; {
			if n >= most {
				return n, true, nil
			}
			raw, err := purgeScript.run(ctx, b.redis, p, []string{p.graves()}, append(f.args(), min(purgeBatch, most-n))...)
			if err != nil {
				return n, true, fault("purge dead letters", err)
			}
			v := texts(raw)
			n += int(number(v[0]))
			more = number(v[0]) > 0 && number(v[1]) > 0
		}
	}
	return n, false, nil
}

// Clear takes dead letters out of the lists of a partition whose retention is over.
func (b *Broker) Clear(ctx context.Context, p int) error {
	for part := b.part(p); ; {
		raw, err := clearScript.run(ctx, b.redis, part, []string{part.graves()}, pruneBatch)
		if err != nil {
			return fault("prune the dead letters", err)
		}
		if n, _ := raw.(int64); n < pruneBatch || ctx.Err() != nil {
			return nil
		}
	}
}
