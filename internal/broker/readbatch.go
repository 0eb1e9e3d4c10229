package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/coatcheck/coatcheck/internal/correlation"
)

// batchSubmits bounds for how long a batch may take to be submitted: one that was
// not closed by then lost its gateway, and what it has is all of it.
const batchSubmits = time.Minute

var tallyScript = newPlainScript("tally")

// Batch is how far a batch is.
type Batch struct {
	ID       correlation.ID
	Created  time.Time
	Items    int // that the call had
	Accepted int
	Open     int // accepted, without an outcome
	Outcomes map[Status]int
	Complete bool // nothing will change any more

	News    []ItemOutcome    // after the position that was asked from, oldest first
	Waiting []correlation.ID // the open ones, where they were asked for
	At      map[int]int      // position: how many outcomes of a partition were seen
}

// ItemOutcome is the outcome of one item.
type ItemOutcome struct {
	ID     correlation.ID
	Number int
	Status Status
	At     time.Time
	part   int
}

// BatchAsk says what to read of a batch.
type BatchAsk struct {
	After  map[int]int // outcomes known by partition; nil: none
	Open   bool        // list the open items
	Attach bool        // register this process for wake-ups
}

// Batch sums what the partitions have. ErrGone, ErrUnavailable.
func (b *Broker) Batch(ctx context.Context, id correlation.ID, ask BatchAsk) (Batch, error) {
	if err := b.Ready(); err != nil {
		return Batch{}, err
	}
	home := id.Partition()
	out := Batch{ID: id, Outcomes: map[Status]int{}, At: map[int]int{}}
	first, err := b.tally(ctx, id, ask, []int{home}, &out)
	if err != nil {
		return out, err
	}
	if first == nil {
		return out, ErrGone
	}
	closed := strings.HasPrefix(first[7], "+")
	var others []int
	if closed {
		for p := range strings.FieldsSeq(first[7][1:]) {
			others = append(others, int(number(p)))
		}
	} else {
		for p := range b.Partitions() {
			others = append(others, p)
		}
		closed = millis(first[8]).Sub(millis(first[5])) > batchSubmits
	}
	others = slices.DeleteFunc(others, func(p int) bool { return p == home })
	if _, err := b.tally(ctx, id, ask, others, &out); err != nil {
		return out, err
	}
	out.Created, out.Items = millis(first[5]), int(number(first[6]))
	out.Open = out.Accepted
	for _, n := range out.Outcomes {
		out.Open -= n
	}
	out.Complete = closed && out.Open == 0
	slices.SortStableFunc(out.News, func(x, y ItemOutcome) int { return x.At.Compare(y.At) })
	return out, nil
}

// tally adds what the partitions have of a batch, in one pipeline, and returns the
// numbers of the first.
func (b *Broker) tally(ctx context.Context, id correlation.ID, ask BatchAsk, partitions []int, into *Batch) (first []string, err error) {
	answers := make([]*redis.Cmd, len(partitions))
	for try := range 2 {
		pipe := b.redis.commands.Pipeline()
		for i, n := range partitions {
			p, gateway, open := b.part(n), "", 0
			if ask.Attach {
				gateway = b.name
			}
			if ask.Open {
				open = 1
			}
			answers[i] = tallyScript.in(ctx, pipe, b.redis, p, []string{p.batch(id)}, id.String(), gateway, ask.After[n], open)
		}
		if len(partitions) == 0 {
			return nil, nil
		}
		if _, err := pipe.Exec(ctx); try > 0 || !isNoScript(err) {
			break
		}
		if err := b.load(ctx); err != nil {
			return nil, fault("load the scripts", err)
		}
	}
	for i, n := range partitions {
		raw, err := answers[i].Result()
		if errors.Is(err, redis.Nil) {
			into.At[n] = ask.After[n]
			continue
		}
		if err != nil {
			return nil, fault("read a batch", err)
		}
		list, _ := raw.([]any)
		if len(list) != 3 {
			return nil, fmt.Errorf("read a batch: %d parts instead of 3", len(list))
		}
		v := texts(list[0])
		if i == 0 {
			first = v
		}
		into.Accepted += int(number(v[0]))
		for i, s := range Outcomes {
			into.Outcomes[s] += int(number(v[i+1]))
		}
		lines := texts(list[1])
		into.At[n] = ask.After[n] + len(lines)
		for _, line := range lines {
			f := strings.Fields(line)
			item, err := correlation.Parse(f[0])
			if err != nil || len(f) != 4 {
				return nil, fmt.Errorf("read an outcome of a batch: %q", line)
			}
			into.News = append(into.News, ItemOutcome{item, int(number(f[1])), Status(f[2]), millis(f[3]), n})
		}
		if len(lines) > 0 && b.Kept().Mode == Replicated {
			if err := b.shownUntil(ctx, b.part(n), into.News[len(into.News)-1].At, false); err != nil {
				return nil, err
			}
		}
		for _, text := range texts(list[2]) {
			if item, err := correlation.Parse(text); err == nil {
				into.Waiting = append(into.Waiting, item)
			}
		}
	}
	return first, nil
}

// Partition is where the outcome was counted.
func (o ItemOutcome) Partition() int { return o.part }
