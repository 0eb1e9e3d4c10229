package conformance

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/api/client"
)

const (
	lapsed     = "lease_lapsed" // code of an attempt whose worker fell silent
	looksEvery = 1500 * time.Millisecond
	mostSlots  = 64
	midst      = 2 * time.Second // how long a request takes that is to be met in its midst, on a busy machine too
	fillWait   = time.Second     // in which a worker with a free slot takes a request
	settleWait = 2 * time.Second // for what a worker said last to be settled
)

// beyond is long enough for a lease to be seen to have lapsed: leases are looked
// at once a second.
func (r *run) beyond() time.Duration { return r.lease*3/2 + looksEvery }

func (r *run) heartbeat(ctx context.Context) error {
	began := time.Now()
	id, err := r.held(ctx, r.beyond())
	if err != nil {
		return err
	}
	s, err := r.succeeded(ctx, id, r.beyond()+r.Patience)
	if err == nil && s.Attempt != 1 {
		err = wrong{fmt.Sprintf("that it stays at attempt 1 for %v, with a lease of %v", r.beyond(), r.lease), describe(s)}
	}
	if took := time.Since(began).Round(time.Millisecond); err == nil && took < r.beyond() {
		err = wrong{fmt.Sprintf("that the worker is busy with it for %v", r.beyond()), fmt.Sprintf("an outcome after %v", took)}
	}
	return err
}

// cancel fills all slots of the worker, so that it can take something else only
// once it has let go of what was canceled. How it hears of that is its business.
func (r *run) cancel(ctx context.Context) error {
	let := r.lease + 5*time.Second // a worker over HTTP hears of it at its next heartbeat
	long := 2*let + r.Patience
	var held []string
	for full := false; !full; {
		id, err := r.submit(ctx, question{Do: "sleep", MS: long.Milliseconds()})
		if err != nil {
			return err
		}
		within := fillWait
		if held == nil {
			within = r.Patience
		}
		begun, err := r.started(ctx, id, within)
		if err != nil {
			return err
		}
		if !begun && held == nil {
			return wrong{fmt.Sprintf("that the worker takes a request within %v", within), "it is still queued"}
		}
		full, held = !begun, append(held, id)
		if err := r.busy(ctx, held[0], long); err != nil {
			return err
		}
		if len(held) > mostSlots {
			return notRun(fmt.Sprintf("more than %d requests run at once: nobody could see that one is let go", mostSlots))
		}
	}
	for i := len(held) - 1; i >= 0; i-- { // the one that waits first
		s, err := r.client.Cancel(ctx, held[i])
		if err != nil {
			return err
		}
		if s.Status != api.Canceled {
			return wrong{"canceled", describe(s)}
		}
	}
	id, err := r.hand(ctx, []byte("next, please"))
	if err != nil {
		return err
	}
	s, _, err := r.outcome(ctx, id, let)
	if w, slow := errors.AsType[wrong](err); slow {
		return wrong{fmt.Sprintf("that another request is answered within %v, after all %d of the worker were canceled", let, len(held)-1), w.seen}
	}
	if err == nil && s.Status != api.Succeeded {
		err = wrong{"success", describe(s)}
	}
	return err
}

func (r *run) kill(ctx context.Context) error {
	id, err := r.held(ctx, midst)
	if err != nil {
		return err
	}
	if err := r.restart(ctx); err != nil {
		return err
	}
	s, err := r.succeeded(ctx, id, r.beyond()+r.Patience)
	if err == nil && s.Attempt < 2 {
		err = wrong{"another attempt, since the worker of the first was killed", describe(s)}
	}
	return err
}

// stall has the same worker at two attempts of one request, where it has the
// slots.
func (r *run) stall(ctx context.Context) error {
	id, err := r.held(ctx, midst)
	if err != nil {
		return err
	}
	r.worker.all(syscall.SIGSTOP)
	rest(ctx, r.beyond())
	r.worker.all(syscall.SIGCONT)
	if _, err := r.succeeded(ctx, id, r.lease+r.Patience); err != nil {
		return err
	}
	return r.echo(ctx, []byte("is anybody still there?"))
}

func (r *run) drain(ctx context.Context) error {
	first, err := r.held(ctx, midst)
	if err != nil {
		return err
	}
	r.worker.terminate()
	second, err := r.hand(ctx, []byte("too late"))
	if err != nil {
		return err
	}
	if !r.worker.ended(r.Patience) {
		return wrong{fmt.Sprintf("that the worker ends within %v after SIGTERM", r.Patience), "it still runs"}
	}
	for _, id := range []string{first, second} {
		if err := r.released(ctx, id); err != nil {
			return err
		}
	}
	if err := r.restart(ctx); err != nil {
		return err
	}
	if _, err := r.succeeded(ctx, first, r.Patience); err != nil {
		return err
	}
	s, _, err := r.outcome(ctx, second, r.Patience)
	if err == nil && s.Status != api.Succeeded {
		err = wrong{"success", describe(s)}
	}
	return err
}

// released wants a request not to be with a worker that has ended: answered,
// given back, or never taken.
func (r *run) released(ctx context.Context, id string) error {
	for until := time.Now().Add(settleWait); ; {
		s, err := r.client.Status(ctx, id)
		if err != nil {
			return err
		}
		if s.Status != api.Running || client.Terminal(s) {
			for _, a := range s.Attempts {
				if a.Error.Code == lapsed {
					return wrong{"that the worker finishes what it has, or gives it back", describe(s)}
				}
			}
			return nil
		}
		if time.Now().After(until) || !rest(ctx, glance) {
			return wrong{"that the worker finishes what it has, or gives it back", describe(s) + ", though its worker has ended"}
		}
	}
}
