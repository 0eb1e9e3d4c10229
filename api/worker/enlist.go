package worker

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/loop"
)

// enlist says to the gateways that this worker is alive, until all handlers are
// done, and obeys where they tell it to drain.
func (r *run) enlist(ctx context.Context) {
	trouble := loop.Trouble{Log: r.log}
	e := broker.Enlistment{Version: r.options.version, Slots: r.options.concurrency, Services: r.described(), First: true}
	quiet := r.claiming.Done() // nil once that was said
	for {
		e.Draining = r.claiming.Err() != nil
		if e.Draining {
			quiet = nil
		}
		drain, err := r.broker.Enlist(r.work, e)
		if err != nil && r.work.Err() == nil {
			trouble.Warn("the worker can't announce itself; trying again", "error", err)
		}
		if err == nil {
			e.First = false
		}
		if drain && r.claiming.Err() == nil {
			r.quiet()
			continue
		}
		t := time.NewTimer(broker.AnnounceEvery - rand.N(broker.AnnounceEvery/10)) // a crowd that started together spreads
		select {
		case <-r.work.Done():
			t.Stop()
			return
		case <-quiet:
			if ctx.Err() == nil {
				r.log.Info("the worker was told to drain: it finishes what it has and claims no more until it is started again")
			}
		case <-t.C:
		}
		t.Stop()
	}
}

func (r *run) described() map[string]broker.Description {
	services := make(map[string]broker.Description, len(r.services))
	for name, s := range r.services {
		d := broker.Description{Description: s.description}
		if s.requestSchema != "" {
			d.Request = json.RawMessage(s.requestSchema)
		}
		if s.replySchema != "" {
			d.Reply = json.RawMessage(s.replySchema)
		}
		services[name] = d
	}
	return services
}

// delist takes this worker off the list; where Redis is away, the gateways
// forget it by themselves.
func (r *run) delist(ctx context.Context) {
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), giveBackTime)
	defer stop()
	if err := r.broker.Delist(ctx); err != nil {
		r.log.Debug("the worker was not taken off the list", "error", err)
	}
}
