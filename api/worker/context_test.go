package worker

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// A handler's context behaves as one of the library, whenever it is looked at first.
func TestHandlerContext(t *testing.T) {
	type key struct{}
	for name, when := range map[string]func(look, end func()){
		"before": func(look, end func()) { look(); end() },
		"after":  func(look, end func()) { end(); look() },
		"never":  func(_, end func()) { end() },
	} {
		for why, want := range map[string]struct{ err, cause error }{
			"canceled": {context.Canceled, ErrCanceled},
			"returned": {context.Canceled, context.Canceled},
			"deadline": {context.DeadlineExceeded, context.DeadlineExceeded},
			"all":      {context.Canceled, context.Canceled},
		} {
			t.Run(why+" "+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					all, stop := context.WithCancel(context.WithValue(t.Context(), key{}, "value"))
					defer stop()
					c := &handlerContext{all: all, deadline: time.Now().Add(time.Minute)}
					var below context.Context
					if err := c.Err(); err != nil {
						t.Fatalf("it begins with %v", err)
					}
					when(func() {
						var forget context.CancelFunc
						below, forget = context.WithTimeout(c, time.Hour)
						t.Cleanup(forget)
						if c.Value(key{}) != "value" {
							t.Error("it has no value of its parent")
						}
					}, func() {
						switch why {
						case "canceled":
							c.cancel(ErrCanceled)
							c.cancel(ErrShutdown) // too late
						case "returned":
							c.cancel(nil)
						case "deadline":
							time.Sleep(time.Minute)
						case "all":
							stop()
						}
					})
					synctest.Wait()
					if err := c.Err(); !errors.Is(err, want.err) {
						t.Errorf("it ended with %v, want %v", err, want.err)
					}
					if cause := context.Cause(c); !errors.Is(cause, want.cause) {
						t.Errorf("its cause is %v, want %v", cause, want.cause)
					}
					select {
					case <-c.Done():
					default:
						t.Error("it is not done")
					}
					if below != nil {
						<-below.Done()
						if cause := context.Cause(below); !errors.Is(cause, want.cause) {
							t.Errorf("below it the cause is %v", cause)
						}
					}
					c.cancel(nil)
				})
			})
		}
	}
}
