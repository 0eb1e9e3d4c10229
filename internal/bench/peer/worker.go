package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/hibiken/asynq"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

const (
	echoTask, echoQueue         = "echo", "echo"
	callbackTask, callbackQueue = "callback", "callbacks"

	callbacksAtOnce = 64
	callbackTime    = 15 * time.Second
	callbackRetries = 8

	// checkEvery is for how long an idle server rests. The default of a second
	// would be the latency of every first request.
	checkEvery = 20 * time.Millisecond
)

// worker gives back what it gets, and owes a callback where one is wanted.
func worker(ctx context.Context, redis asynq.RedisConnOpt, concurrency int) error {
	owed := asynq.NewClient(redis)
	s := asynq.NewServer(redis, config(echoQueue, concurrency))
	mux := asynq.NewServeMux()
	mux.HandleFunc(echoTask, func(ctx context.Context, t *asynq.Task) error {
		reply := t.Payload()
		if _, err := t.ResultWriter().Write(reply); err != nil {
			return err
		}
		url := t.Headers()["callback"]
		if url == "" {
			return nil
		}
		id := t.ResultWriter().TaskID()
		task := asynq.NewTaskWithHeaders(callbackTask, document(id, "succeeded", reply), map[string]string{"url": url, "id": id})
		_, err := owed.EnqueueContext(ctx, task, asynq.Queue(callbackQueue), asynq.TaskID("callback:"+id), asynq.MaxRetry(callbackRetries), asynq.Timeout(callbackTime))
		if err == asynq.ErrTaskIDConflict { // it was owed by an earlier attempt
			return nil
		}
		return err
	})
	if err := s.Start(mux); err != nil {
		return err
	}
	<-ctx.Done()
	s.Shutdown()
	return nil
}

func config(queue string, concurrency int) asynq.Config {
	return asynq.Config{
		Concurrency: concurrency, Queues: map[string]int{queue: 1}, TaskCheckInterval: checkEvery, LogLevel: asynq.WarnLevel,
	}
}

// deliver sends callbacks that are owed.
func deliver(redis asynq.RedisConnOpt, secret string) (*asynq.Server, error) {
	hook, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		return nil, err
	}
	c := &http.Client{Timeout: callbackTime, Transport: &http.Transport{MaxIdleConnsPerHost: callbacksAtOnce}}
	mux := asynq.NewServeMux()
	mux.HandleFunc(callbackTask, func(ctx context.Context, t *asynq.Task) error {
		h, now := t.Headers(), time.Now()
		body := append(append([]byte(`{"type":"request.succeeded","data":`), t.Payload()...), '}')
		signature, err := hook.Sign(h["id"], now, body)
		if err != nil {
			return err
		}
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, h["url"], bytes.NewReader(body))
		if err != nil {
			return err
		}
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("X-Correlation-ID", h["id"])
		r.Header.Set("Webhook-Id", h["id"])
		r.Header.Set("Webhook-Timestamp", strconv.FormatInt(now.Unix(), 10))
		r.Header.Set("Webhook-Signature", signature)
		answer, err := c.Do(r)
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		if answer.StatusCode >= 300 {
			return fmt.Errorf("the receiver answered %d", answer.StatusCode)
		}
		return nil
	})
	s := asynq.NewServer(redis, config(callbackQueue, callbacksAtOnce))
	return s, s.Start(mux)
}
