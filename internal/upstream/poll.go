package upstream

import (
	"context"
	"net/http"
	"time"

	"github.com/coatcheck/coatcheck/api/worker"
	"github.com/coatcheck/coatcheck/internal/loop"
)

const (
	firstPoll   = time.Second // where the backend does not say when
	longestPoll = 30 * time.Second
	maxHops     = 5 // redirects from what was polled to its result
)

// poll asks again while the backend says that it has accepted and not finished:
// 202 with a Location, or later a redirect to the result. What leads to another
// host is the reply, since only the backend was named by the operator.
func (u *Upstream) poll(ctx context.Context, r *worker.Request, response *http.Response) (*http.Response, error) {
	polled, pause, hops := false, firstPoll, 0
	for {
		location, err := response.Location()
		moved := polled && response.StatusCode >= 300 && response.StatusCode < 400 && hops < maxHops
		waits := response.StatusCode == http.StatusAccepted
		if polled && waits && err != nil { // it says no new place: the same again
			location, err = response.Request.URL, nil
		}
		if err != nil || !waits && !moved || !u.sameOrigin(location) {
			return response, nil
		}
		wait := retryAfter(response.Header)
		discard(response)
		if waits {
			if wait == 0 {
				wait, pause = pause, min(2*pause, longestPoll)
			}
			if !loop.Rest(ctx, wait) {
				return nil, ctx.Err()
			}
		} else {
			hops++
		}
		polled = true
		if response, err = u.send(ctx, r, http.MethodGet, location, nil); err != nil {
			return nil, err
		}
	}
}
