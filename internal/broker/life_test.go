package broker_test

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
	"pgregory.net/rapid"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/correlation"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// life is what must hold of a request, whatever happens to it. It moves a real
// broker on an embedded Redis inside a bubble, where time passes when it says.
type life struct {
	b        *broker.Broker
	rude     *redis.Client // does what no worker should
	requests map[correlation.ID]*witness
	held     []broker.Delivery // by workers, dead ones too
	reserved []broker.Delivery // by a gateway, also what it gave away or back since
	sent     map[string]int    // body of a reply → attempt that it was sent for
	seq      int
	paused   bool
	acked    bool                        // a worker acknowledged by itself: then what runs looks queued until a sweep
	order    map[string][]correlation.ID // by ordering key: those accepted, first come first
}

// witness is what clients have seen of one request so far.
type witness struct {
	record broker.Record
	body   string
	name   string         // its own: the body, where that is shared a number, and for each redrive a stroke
	seen   map[int]string // event number → body
}

// TestLifeOfARequest draws random histories: submits, claims, replies of every
// type (also repeated, stale, late), lapses, cancels, time that passes, and
// upkeep that comes late. After each step: one outcome, terminal is final, the
// numbers of events only grow, nothing accepted is gone, nothing runs too often.
func TestLifeOfARequest(outer *testing.T) {
	rapid.Check(outer, func(t *rapid.T) {
		history := rapid.Custom(func(t *rapid.T) []step {
			return rapid.SliceOfN(drawStep(), rapid.SampledFrom([]int{1, 30}).Draw(t, "least"), 60).Draw(t, "steps")
		}).Draw(t, "history")
		var broken string
		synctest.Test(outer, func(bubble *testing.T) { broken = live(bubble, history) })
		if broken != "" {
			t.Fatal(broken)
		}
	})
}

// lifeServices are all of them; a scatter goes to the first three, and requests to
// the last one share their runs.
var lifeServices = []string{"echo", "left", "right", "same"}

// step is one thing that happens; pick chooses among what there is.
type step struct {
	Do   string
	Pick int
	Wait time.Duration
}

func drawStep() *rapid.Generator[step] {
	return rapid.Custom(func(t *rapid.T) step {
		return step{
			Do: rapid.SampledFrom([]string{
				"submit", "submit", "claim", "claim", "progress", "final", "final", "failed", "retry", "retry at once",
				"heartbeat", "cancel", "settle", "settle", "decide", "lapse", "pass", "delete", "ack", "sweep",
				"submit ordered", "submit ordered", "submit delayed", "submit high", "submit with a key", "pause", "regulate",
				"reserve", "reserve", "entrust", "entrust", "unclaim",
				"submit same", "submit same", "submit same", "claim same", "claim same",
				"scatter", "scatter", "claim leg", "claim leg", "claim leg",
				"submit short", "submit short", "redrive", "redrive", "redrive",
			}).Draw(t, "do"),
			Pick: rapid.IntRange(0, 1000).Draw(t, "pick"),
			Wait: time.Duration(rapid.IntRange(1, 3000).Draw(t, "ms")) * time.Millisecond,
		}
	})
}

func live(t *testing.T, history []step) (broken string) {
	_, dial := redistest.Pipe(t)
	rude := redis.NewClient(&redis.Options{
		Dialer: dial, DisableIdentity: true, Protocol: 2,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
	defer rude.Close()
	config := broker.ServiceConfig{
		Timeout: 20 * time.Second, RunTimeout: 8 * time.Second, StartTimeout: 10 * time.Second,
		Lease: 3 * time.Second, MaxAttempts: 3, Retention: time.Hour,
	}
	shared := config
	shared.Coalesce, shared.CacheTTL = true, 2*time.Second
	b, err := broker.Open(t.Context(), broker.Options{
		URL: "redis://bubble:6379", Dial: dial, Logger: slog.New(slog.DiscardHandler),
		Services: map[string]broker.ServiceConfig{"echo": config, "left": config, "right": config, "same": shared},
	})
	if err != nil {
		return err.Error()
	}
	defer b.Close()
	l := &life{b: b, rude: rude, requests: map[correlation.ID]*witness{}, sent: map[string]int{}, order: map[string][]correlation.ID{}}
	for i, s := range history {
		if err := l.step(t, s); err != nil {
			return fmt.Sprintf("step %d, %s: %v", i, s.Do, err)
		}
		if err := l.check(t); err != nil {
			return fmt.Sprintf("after step %d, %s: %v", i, s.Do, err)
		}
	}
	// Whatever happened: once the deadline is over and upkeep ran, all have an outcome.
	time.Sleep(40 * time.Second)
	for range 3 {
		if err := l.upkeep(t); err != nil {
			return err.Error()
		}
	}
	if err := l.check(t); err != nil {
		return "at the end: " + err.Error()
	}
	for _, service := range lifeServices {
		if left := rude.XLen(t.Context(), "cc:{0}:queue:"+service).Val(); left > 0 && !l.acked {
			return fmt.Sprintf("%d entries of %s are left", left, service)
		}
	}
	for _, kind := range []string{"gate", "waiting", "line"} {
		if left := rude.Keys(t.Context(), "cc:{0}:"+kind+":*").Val(); len(left) > 0 {
			return fmt.Sprint("left behind: ", left)
		}
	}
	for id, w := range l.requests {
		if !w.record.Status.Terminal() {
			return fmt.Sprintf("%s is %s long after its deadline", id, w.record.Status)
		}
	}
	return ""
}

func (l *life) step(t *testing.T, s step) error {
	ctx := t.Context()
	l.seq++
	switch s.Do {
	case "submit", "submit ordered", "submit delayed", "submit high", "submit with a key", "submit same", "submit short":
		sub := broker.Submission{Tenant: broker.DefaultTenant, Service: "echo", Body: fmt.Appendf(nil, "body %d", l.seq)}
		switch s.Do {
		case "submit ordered":
			sub.OrderingKey = fmt.Sprint("key ", s.Pick%2)
		case "submit delayed":
			sub.Delay = s.Wait
		case "submit high":
			sub.Priority = broker.PriorityHigh
		case "submit same":
			sub.Service, sub.Body = "same", fmt.Appendf(nil, "body of %d", s.Pick%2)
			sub.Timeout = time.Duration(5+s.Pick%20) * time.Second
		case "submit with a key":
			sub.ConcurrencyKey = "key"
		case "submit short": // soon a dead letter
			sub.Timeout = s.Wait / 10
			if s.Pick%2 == 0 {
				sub.OrderingKey = "key 0"
			}
		}
		r, _, err := l.b.Submit(ctx, sub)
		if err != nil {
			return err
		}
		name := string(sub.Body)
		if sub.Service == "same" {
			name = fmt.Sprintf("%s, %d", name, l.seq)
		}
		l.requests[r.ID] = &witness{record: r, body: string(sub.Body), name: name, seen: map[int]string{}}
		if sub.OrderingKey != "" {
			l.order[sub.OrderingKey] = append(l.order[sub.OrderingKey], r.ID)
		}
	case "scatter":
		sub := broker.Scatter{
			Submission: broker.Submission{Tenant: broker.DefaultTenant, Body: fmt.Appendf(nil, "body %d", l.seq)},
			MinReplies: 1 + s.Pick%3, AcceptPartial: s.Pick%2 == 0,
		}
		if s.Pick%5 == 0 {
			sub.StallTimeout = s.Wait
		}
		for _, service := range lifeServices[:3] {
			sub.Legs = append(sub.Legs, broker.Submission{Service: service, Body: sub.Body})
		}
		if s.Pick%7 == 0 {
			sub.Delay = s.Wait
		}
		r, _, err := l.b.Scatter(ctx, sub)
		if err != nil {
			return err
		}
		l.requests[r.ID] = &witness{record: r, body: string(sub.Body), name: string(sub.Body), seen: map[int]string{}}
	case "claim", "claim leg", "claim same", "reserve":
		var got []broker.Delivery
		var err error
		switch s.Do {
		case "claim":
			got, err = l.b.Claim(ctx, fmt.Sprintf("w%d", s.Pick%3), []string{"echo"}, 1, time.Millisecond)
		case "claim leg":
			got, err = l.b.Claim(ctx, fmt.Sprintf("w%d", s.Pick%3), lifeServices[1+s.Pick%2:][:1], 1, time.Millisecond)
		case "claim same":
			got, err = l.b.Claim(ctx, fmt.Sprintf("w%d", s.Pick%3), lifeServices[3:], 1, time.Millisecond)
		case "reserve":
			got, err = l.b.Reserve(ctx, lifeServices[s.Pick%2*3], 1, time.Millisecond)
		}
		if err != nil {
			return err
		}
		for _, d := range got {
			id, _ := correlation.Parse(d.ID)
			if d.Service == "same" {
				if err := l.wanted(d); err != nil {
					return err
				}
				continue
			}
			if w := l.requests[id]; w == nil || w.body != string(d.Body) || d.Attempt > 3 {
				return fmt.Errorf("delivered %+v", d)
			} else if w.record.Status.Terminal() {
				return fmt.Errorf("delivered a request that is %s", w.record.Status)
			}
			if err := l.inOrder(id); err != nil {
				return err
			}
		}
		if len(got) > 0 && l.paused && got[0].Service == "echo" {
			return fmt.Errorf("delivered %s of a paused service", got[0].Body)
		}
		if s.Do != "reserve" {
			l.held = append(l.held, got...)
		} else {
			l.reserved = append(l.reserved, got...)
		}
	case "entrust", "unclaim":
		if len(l.reserved) == 0 {
			return nil
		}
		d := l.reserved[s.Pick%len(l.reserved)]
		if s.Do == "unclaim" {
			return l.b.Unclaim(ctx, d)
		}
		got, err := l.b.Entrust(ctx, []broker.Delivery{d})
		l.held = append(l.held, got...)
		if len(got) > 0 && d.Service == "same" {
			return errors.Join(err, l.wanted(d))
		}
		id, _ := correlation.Parse(d.ID)
		if w := l.requests[id]; len(got) > 0 && (w == nil || w.record.Status.Terminal()) {
			return fmt.Errorf("entrusted a request that has ended: %+v", w)
		}
		return err
	case "progress", "final", "failed", "retry", "retry at once", "heartbeat":
		if len(l.held) == 0 {
			return nil
		}
		d := l.held[s.Pick%len(l.held)] // may be held by a dead worker, or answered already
		r := broker.WorkerReply{Type: s.Do, Body: []byte(fmt.Sprintf("%s %d", s.Do, l.seq))}
		if s.Do == "retry at once" {
			r.Type, r.Delay = "retry", time.Millisecond
		}
		l.sent[string(r.Body)] = d.Attempt
		return l.b.Send(ctx, d, r)
	case "cancel", "delete":
		if id, ok := l.chosen(s.Pick, anyone); ok {
			var err error
			if s.Do == "cancel" {
				_, err = l.b.Cancel(ctx, id)
			} else if err = l.b.Delete(ctx, id); err == nil {
				delete(l.requests, id)
			}
			if err != nil && !errors.Is(err, broker.ErrTerminal) {
				return err
			}
			return nil
		}
	case "redrive":
		time.Sleep(s.Wait / 10)
		if err := errors.Join(l.upkeep(t), l.check(t)); err != nil {
			return err
		}
		wanted := (*witness).dead
		if s.Pick%4 == 0 {
			wanted = anyone
		}
		if id, ok := l.chosen(s.Pick, wanted); ok {
			return l.redrive(t, id)
		}
	case "settle":
		_, _, err := l.b.Settle(ctx, 0)
		return err
	case "decide":
		_, err := l.b.Decide(ctx, 0)
		return err
	case "ack": // a worker acknowledges by itself
		for _, p := range l.rude.XPendingExt(ctx, &redis.XPendingExtArgs{
			Stream: "cc:{0}:queue:echo", Group: "workers", Start: "-", End: "+", Count: 1,
		}).Val() {
			l.acked = true
			return l.rude.XAck(ctx, "cc:{0}:queue:echo", "workers", p.ID).Err()
		}
	case "sweep":
		for _, service := range lifeServices {
			if _, _, err := l.b.Sweep(ctx, 0, service, ""); err != nil {
				return err
			}
		}
	case "lapse":
		for _, service := range lifeServices {
			if _, err := l.b.Lapse(ctx, 0, service); err != nil {
				return err
			}
		}
	case "pass":
		time.Sleep(s.Wait)
	case "regulate":
		_, err := l.b.Regulate(ctx, 0, "echo")
		return err
	case "pause": // or resume
		l.paused = !l.paused
		if l.paused {
			return l.b.Pause(ctx, "echo")
		}
		return l.b.Resume(ctx, "echo")
	}
	return nil
}

// wanted tells whether somebody waits for a shared run.
func (l *life) wanted(d broker.Delivery) error {
	for _, w := range l.requests {
		if w.body == string(d.Body) && !w.record.Status.Terminal() && d.Attempt <= 3 {
			return nil
		}
	}
	return fmt.Errorf("delivered %+v, which nobody waits for", d)
}

// redrive asks to run a request again, whatever it is. It is done once, for what
// failed or timed out, and from then on the new request is one like any other.
func (l *life) redrive(t *testing.T, id correlation.ID) error {
	w := l.requests[id]
	r, replayed, err := l.b.Retry(t.Context(), id)
	made, parsed := correlation.Parse(w.record.RetriedAs)
	switch {
	case !w.dead():
		if !errors.Is(err, broker.ErrNotDead) {
			return fmt.Errorf("it is %s and was redriven: %w", w.record.Status, err)
		}
	case parsed == nil && l.requests[made] == nil: // that was deleted
		if !errors.Is(err, broker.ErrGone) {
			return fmt.Errorf("redriven as %v, which is gone: %w", made, err)
		}
	case err != nil || replayed != (parsed == nil) || replayed && r.ID != made || r.RetryOf != id.String():
		return fmt.Errorf("redriven as %+v, replayed %v: %w", r, replayed, err)
	case !replayed:
		if old, err := l.b.Status(t.Context(), id); err != nil || old.RetriedAs != r.ID.String() || old.Status != w.record.Status {
			return fmt.Errorf("redriven as %s, it is %+v: %w", r.ID, old, err)
		}
		l.requests[r.ID] = &witness{record: r, body: w.body, name: w.name + "'", seen: map[int]string{}}
		for key, ids := range l.order {
			if slices.Contains(ids, id) {
				l.order[key] = append(ids, r.ID)
			}
		}
	}
	return nil
}

// inOrder tells whether everything that was accepted before a delivered request
// with the same ordering key has its outcome.
func (l *life) inOrder(id correlation.ID) error {
	for key, ids := range l.order {
		for _, earlier := range ids[:max(0, slices.Index(ids, id))] {
			if w := l.requests[earlier]; w != nil && !w.record.Status.Terminal() {
				return fmt.Errorf("%s: %s was delivered before %s, which is %s", key, id, earlier, w.record.Status)
			}
		}
	}
	return nil
}

// chosen is one of the requests, the same for the same history.
func (l *life) chosen(pick int, wanted func(*witness) bool) (id correlation.ID, ok bool) {
	names := map[string]correlation.ID{}
	for id, w := range l.requests {
		if wanted(w) {
			names[w.name] = id
		}
	}
	if len(names) == 0 {
		return id, false
	}
	sorted := slices.Sorted(maps.Keys(names))
	return names[sorted[pick%len(sorted)]], true
}

func anyone(*witness) bool { return true }

// dead tells whether a request is to be redriven.
func (w *witness) dead() bool {
	return w.record.Legs == nil && (w.record.Status == broker.Failed || w.record.Status == broker.TimedOut)
}

func (l *life) upkeep(t *testing.T) error {
	for range 4 {
		if _, _, err := l.b.Settle(t.Context(), 0); err != nil {
			return err
		}
		if _, err := l.b.Decide(t.Context(), 0); err != nil {
			return err
		}
	}
	return nil
}
