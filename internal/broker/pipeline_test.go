package broker

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Who posts a call and who waits for one share a pipeline; each is answered once, also
// when the pipeline closes meanwhile.
func TestPosted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		batches := make(chan int, 10)
		hold := make(chan struct{})
		p := newPipeline(func(calls []*call[int, int]) {
			<-hold
			for _, c := range calls {
				c.answer = 2 * c.ask
			}
			batches <- len(calls)
		}, 0)
		var mu sync.Mutex
		answers, refused := map[int]int{}, 0
		post := func(ctx context.Context, ask int) {
			p.post(ctx, ask, 1, func(answer int, err error) {
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					refused++
					return
				}
				answers[ask] = answer
			})
		}
		for ask := 1; ask <= pipelineFlushers; ask++ {
			post(t.Context(), ask)
			synctest.Wait() // a flusher has it
		}
		for ask := 10; ask < 15; ask++ {
			post(t.Context(), ask)
		}
		waited := make(chan int)
		go func() {
			answer, _, _ := p.do(t.Context(), 100, 1)
			waited <- answer
		}()
		synctest.Wait()
		close(hold)
		if got := <-waited; got != 200 {
			t.Errorf("the one that waited got %d", got)
		}
		synctest.Wait()
		if len(answers) != pipelineFlushers+5 || answers[12] != 24 || refused != 0 {
			t.Errorf("answered %v, refused %d", answers, refused)
		}
		if len(batches) != pipelineFlushers+1 {
			t.Errorf("%d batches, want those that were under way and one of all others", len(batches))
		}
		p.close()
		for range 2 * pipelineCommands {
			post(t.Context(), 1000)
		}
		if refused != 2*pipelineCommands {
			t.Errorf("%d of %d were refused after the end", refused, 2*pipelineCommands)
		}
	})
}

// A full pipeline keeps nobody whose context ends.
func TestPostedWhileFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hold := make(chan struct{})
		p := newPipeline(func([]*call[int, int]) { <-hold }, 0)
		ctx, stop := context.WithCancel(t.Context())
		var last error
		go func() {
			for range pipelineFlushers*pipelineCommands + pipelineCommands + 1 {
				p.post(ctx, 1, 1, func(_ int, err error) {
					if err != nil {
						last = err
					}
				})
			}
		}()
		synctest.Wait()
		stop()
		synctest.Wait()
		if !errors.Is(last, context.Canceled) {
			t.Errorf("got %v, want the end of its context", last)
		}
		close(hold)
		p.close()
	})
}

// Where nobody waits for the answers, what comes for a while after the first call leaves
// with it; the end of the pipeline waits for none of it.
func TestLingering(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var batches []int
		p := newPipeline(func(calls []*call[int, int]) { batches = append(batches, len(calls)) }, time.Second)
		begun := time.Now()
		for range 3 {
			p.post(t.Context(), 1, 1, func(int, error) {})
			time.Sleep(300 * time.Millisecond)
		}
		if _, _, err := p.do(t.Context(), 1, 1); err != nil || time.Since(begun) != time.Second {
			t.Errorf("answered after %v, %v", time.Since(begun), err)
		}
		p.post(t.Context(), 1, 1, func(int, error) {})
		synctest.Wait()
		p.close()
		if time.Since(begun) != time.Second || !slices.Equal(batches, []int{4, 1}) {
			t.Errorf("batches of %v, the end after %v", batches, time.Since(begun))
		}
	})
}
