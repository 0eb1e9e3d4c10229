package broker

import (
	"context"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/coatcheck/coatcheck/internal/correlation"
)

// MostRedriven is how many dead letters one job takes.
const MostRedriven = 1_000_000

var (
	redriveallScript  = newScript("redriveall")
	stopredriveScript = newPlainScript("stopredrive")
)

// RedriveFilter chooses the dead letters of a job.
type RedriveFilter struct {
	DeadFilter
	Status Status // Failed or TimedOut; "" for both
	Limit  int    // 0 for MostRedriven
}

// Redrive is a job that redrives all dead letters that match.
type Redrive struct {
	ID                  correlation.ID
	Filter              RedriveFilter
	State               RedriveState
	Total, Done, Failed int // Total is an upper bound while it runs
	Created, Finished   time.Time
}

// RedriveState is where a job stands.
type RedriveState string

// The states. The last two are final.
const (
	RedriveRunning  RedriveState = "running"
	RedriveDone     RedriveState = "done"
	RedriveCanceled RedriveState = "canceled"
)

// RedriveAll begins a job. It takes those that are dead letters now, not what dies
// later, and lives in Redis: the stewards do it, see Pursue. ErrUnavailable,
// ErrUnknownOutcome: begin another, a dead letter is never redriven twice.
func (b *Broker) RedriveAll(ctx context.Context, f RedriveFilter) (Redrive, error) {
	if err := b.Admits(); err != nil {
		return Redrive{}, err
	}
	if f.Limit <= 0 || f.Limit > MostRedriven {
		f.Limit = MostRedriven
	}
	home := b.anyPartition(mathrand.IntN)
	id := b.mint(home, f.Tenant)
	if _, err := b.beginRedrive(ctx, home, id, f, "", "1"); err != nil {
		return Redrive{}, sentFault("begin to redrive", err)
	}
	if err := b.confirm(ctx, home); err != nil {
		return Redrive{}, err
	}
	return b.RedriveStatus(ctx, id)
}

func (b *Broker) beginRedrive(ctx context.Context, p partition, id correlation.ID, f RedriveFilter, until, home string) (total int, err error) {
	args := append([]any{id.String()}, f.args()...)
	raw, err := redriveallScript.run(ctx, b.redis, p, []string{p.redrive(id)}, append(args, string(f.Status), f.Limit, until, home)...)
	if err != nil {
		return 0, err
	}
	return int(number(texts(raw)[0])), nil
}

// RedriveStatus reads a job. ErrGone, ErrUnavailable.
func (b *Broker) RedriveStatus(ctx context.Context, id correlation.ID) (Redrive, error) {
	if err := b.Ready(); err != nil {
		return Redrive{}, err
	}
	pipe := b.redis.commands.Pipeline()
	parts := make([]*redis.MapStringStringCmd, max(b.Partitions(), id.Partition()+1))
	for p := range parts {
		parts[p] = pipe.HGetAll(ctx, b.part(p).redrive(id))
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return Redrive{}, fault("read a redrive", err)
	}
	home := parts[id.Partition()].Val()
	if home["home"] != "1" {
		return Redrive{}, ErrGone
	}
	r := Redrive{ID: id, State: RedriveDone, Created: millis(home["created"]), Filter: RedriveFilter{
		DeadFilter: DeadFilter{Tenant: home["tenant"], Service: home["service"], Code: home["code"]},
		Status:     Status(home["status"]), Limit: int(number(home["limit"])),
	}}
	for _, part := range parts {
		f := part.Val()
		r.Total += int(number(f["total"]))
		r.Done += int(number(f["done"]))
		r.Failed += int(number(f["failed"]))
		if ended := millis(f["ended"]); ended.After(r.Finished) {
			r.Finished = ended
		}
		if f["state"] == string(RedriveRunning) {
			r.State = RedriveRunning
		}
	}
	if home["spread"] != "1" {
		r.State = RedriveRunning
	}
	if home["state"] == string(RedriveCanceled) {
		r.State = RedriveCanceled
	}
	if r.State == RedriveRunning {
		r.Finished = time.Time{}
	}
	return r, nil
}

// StopRedrive stops a job; what it redrove stays redriven. ErrTerminal, with the
// job, where it was done before; ErrGone, ErrUnavailable, ErrUnknownOutcome.
func (b *Broker) StopRedrive(ctx context.Context, id correlation.ID) (Redrive, error) {
	r, err := b.RedriveStatus(ctx, id)
	if err != nil {
		return r, err
	}
	if r.State == RedriveDone {
		return r, ErrTerminal
	}
	if err := b.stopRedrive(ctx, b.partitionOf(id), id, "1"); err != nil {
		return r, sentFault("stop a redrive", err)
	}
	if err := b.confirm(ctx, b.partitionOf(id)); err != nil {
		return r, err
	}
	if err := b.spreadStop(ctx, id); err != nil { // else the steward at home does it
		b.log.Debug("tell the partitions that a redrive was stopped", "error", err)
	}
	return b.RedriveStatus(ctx, id)
}

func (b *Broker) stopRedrive(ctx context.Context, p partition, id correlation.ID, home string) error {
	_, err := stopredriveScript.run(ctx, b.redis, p, []string{p.redrive(id)}, id.String(), home)
	return err
}

// sentFault is fault for what may have had its effect.
func sentFault(doing string, err error) error {
	if unsent(err) {
		return fault(doing, err)
	}
	if f := fault(doing, err); f != nil && errors.Is(f, ErrMemory) {
		return f
	}
	return fmt.Errorf("%s: %w: %w", doing, ErrUnknownOutcome, err)
}
