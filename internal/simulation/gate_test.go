package simulation_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing/synctest"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/steward"
	"github.com/coatcheck/coatcheck/internal/watch"
)

// gate is a gateway: its broker, its steward, its watch. One that crashed is
// replaced by another of that number.
type gate struct {
	world    *world
	number   int
	name     string
	broker   *broker.Broker
	hub      *watch.Hub
	stop     context.CancelFunc
	starting bool
	dead     bool // nothing of it reaches Redis any more
	waited   bool // a client waits there
	polls    int  // that are under way
	polled   *request
	intents  []*intent
	handed   handed
	holds    []*hold // work for those who ask for it over HTTP
	frozen   bool    // nothing reaches it, or Redis from it, for now
}

// begin starts gateway i.
func (w *world) begin(i int) {
	life := 0
	if old := w.gates[i]; old != nil {
		life = 1 + int(old.name[len(old.name)-1]-'0')
	}
	g := &gate{world: w, number: i, name: fmt.Sprintf("g%d.%d", i, life), starting: true}
	ctx, stop := context.WithCancel(context.Background())
	log := slog.New(slog.DiscardHandler)
	// Which of two partitions a steward has that may have one of them hangs on the
	// scheduler: where there are two, one gateway has both, also when it comes back.
	name, both := g.name, len(w.partitions) > 1
	if both {
		name = name[:2]
	}
	b, err := broker.Open(ctx, broker.Options{
		URL: "redis://bubble:6379", Name: name, Dial: g.dial, Logger: log,
		Services: services, Partitions: len(w.partitions),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	if i%2 == 0 { // the others have to ask
		b.TakeIntents(g.handed.room, g.handed.take)
	}
	g.broker, g.hub, g.stop, g.starting = b, watch.New(b, log), stop, false
	w.gates[i] = g
	w.running.Go(func() {
		var parts sync.WaitGroup
		parts.Go(func() { g.hub.Run(ctx) })
		if w.pausing { // it hears of what the others did
			parts.Go(func() { b.Run(ctx) })
		}
		if !both || i == 0 {
			parts.Go(func() { steward.New(b, log).Run(ctx) })
		}
		parts.Wait()
		b.Close()
	})
	w.say("%s begins", g.name)
	synctest.Wait()
	w.happened() // it has its partitions hear of a pause
}

// end lets everything go, and waits for it.
func (w *world) end() {
	for _, g := range w.gates {
		w.crash(g)
	}
	w.running.Wait()
}

// crash ends a gateway as kill -9 does.
func (w *world) crash(g *gate) {
	w.mu.Lock()
	g.dead = true
	w.mu.Unlock()
	w.cut(g)
	w.unheard(g)
	g.stop()
	synctest.Wait()
	w.finish()
}
