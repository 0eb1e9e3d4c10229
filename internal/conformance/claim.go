package conformance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/coatcheck/coatcheck/api"
)

const (
	defaultLease = 30 * time.Second // of a gateway, where this run could not ask

	claimWait   = 2 * time.Second
	claimRounds = 10       // requests of which this run must get one
	maxClaim    = 64 << 10 // bytes of the answer to a claim of our own small requests
)

// call is one of a worker over HTTP: api/client is for clients.
func (r *run) call(ctx context.Context, path string, body []byte) (code int, answer []byte, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, r.URL+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	request.Header.Set("Content-Type", binary)
	if r.APIKey != "" {
		request.Header.Set("Authorization", "Bearer "+r.APIKey)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(response.Body, maxClaim))
	return response.StatusCode, answer, err
}

// claim takes one request before the worker does, or none.
func (r *run) claim(ctx context.Context) (c api.Claim, err error) {
	code, answer, err := r.call(ctx, fmt.Sprintf("/v1/services/%s/claims?wait=%s", url.PathEscape(r.Service), claimWait), nil)
	switch {
	case err != nil:
		return c, fmt.Errorf("claim a request: %w", err)
	case code == http.StatusNoContent:
		return c, nil
	case code == http.StatusUnauthorized || code == http.StatusForbidden:
		return c, notRun("it needs an API key with the scope work")
	case code != http.StatusOK:
		return c, fmt.Errorf("claim a request: the gateway answered %d", code)
	}
	var list api.ClaimList
	if err := json.Unmarshal(answer, &list); err != nil || len(list.Claims) != 1 {
		return c, errors.New("claim a request: the answer is not what a gateway writes")
	}
	return list.Claims[0], nil
}

// askLease finds out how long the lease is, which a worker is told and a client
// is not.
func (r *run) askLease(ctx context.Context) error {
	c, err := r.snatch(ctx)
	if _, ok := errors.AsType[notRun](err); ok {
		r.lease = defaultLease
		return nil
	}
	if err != nil {
		return err
	}
	r.lease = time.Duration(float64(c.LeaseSeconds) * float64(time.Second))
	return r.giveBack(ctx, c)
}

// giveBack has a request that this run took go to the worker, as another attempt.
func (r *run) giveBack(ctx context.Context, c api.Claim) error {
	code, _, err := r.call(ctx, repliesTo(c)+"retry&delay=0", nil)
	if err == nil && code != http.StatusAccepted {
		err = fmt.Errorf("the gateway answered %d", code)
	}
	if err != nil {
		return fmt.Errorf("give a request back: %w", err)
	}
	return nil
}

func repliesTo(c api.Claim) string { return "/v1/claims/" + url.PathEscape(c.Token) + "/replies?type=" }

// snatch hands requests in until this run gets one of them instead of the worker.
func (r *run) snatch(ctx context.Context) (c api.Claim, err error) {
	for range claimRounds {
		type claimed struct {
			api.Claim
			err error
		}
		taken := make(chan claimed, 1) // the goroutine sends one
		go func() {
			c, err := r.claim(ctx)
			taken <- claimed{c, err}
		}()
		var mine *claimed
		for mine == nil { // until the claim is over, whoever gets what
			id, err := r.submit(ctx, question{Do: "sleep", MS: 300})
			if err == nil {
				_, err = r.started(ctx, id, r.Patience)
			}
			if err != nil {
				return c, err
			}
			select {
			case got := <-taken:
				mine = &got
			case <-time.After(glance): // if it is ours, the answer is on its way
			}
		}
		if mine.err != nil || mine.Token != "" {
			return mine.Claim, mine.err
		}
	}
	return c, notRun(fmt.Sprintf("the worker was faster %d times: no request could be taken before it", claimRounds))
}
