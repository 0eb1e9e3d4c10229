package broker_test

import (
	"errors"
	"log/slog"
	"net/url"
	"strings"
	"testing"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// A Redis that answers and takes no writes takes no requests: a submit that it refuses
// was certainly not accepted, and the gateway says why until it takes them again.
func TestRedisTakesNoWrites(t *testing.T) {
	redis, other := redistest.Start(t), redistest.Start(t)
	for name, refuse := range map[string]struct {
		begin, end func() error
		says       string
	}{
		"replica": {
			func() error {
				host, port, _ := strings.Cut(hostOf(t, other.URL), ":")
				return redis.Client.ReplicaOf(t.Context(), host, port).Err()
			},
			func() error { return redis.Client.ReplicaOf(t.Context(), "NO", "ONE").Err() },
			"is a replica",
		},
		"too few replicas": {
			func() error { return redis.Client.ConfigSet(t.Context(), "min-replicas-to-write", "1").Err() },
			func() error { return redis.Client.ConfigSet(t.Context(), "min-replicas-to-write", "0").Err() },
			"min-replicas-to-write of Redis is 1, and 0 follow",
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := open(t, redis, durably(broker.Auto, 0))
			submit(t, b, "before")
			if err := refuse.begin(); err != nil {
				t.Fatal(err)
			}
			for _, s := range []broker.Submission{{Body: []byte("plain")}, {Body: []byte("in a line"), OrderingKey: "a"}} {
				s.Service = "echo"
				soon(t, "its connections are new", func() error {
					_, _, err := b.Submit(t.Context(), s)
					if errors.Is(err, broker.ErrUnavailable) && !errors.Is(err, broker.ErrUnknownOutcome) {
						return nil
					}
					return err
				})
			}
			soon(t, "it is looked at", func() error {
				_ = broker.Inspect(t.Context(), b)
				if err := b.Admits(); !errors.Is(err, broker.ErrUndurable) || !strings.Contains(err.Error(), refuse.says) {
					return errors.Join(errors.New("admits"), err)
				}
				return nil
			})
			if _, err := broker.Open(t.Context(), broker.Options{URL: redis.URL, Logger: slog.New(slog.DiscardHandler)}); err == nil || !errors.Is(err, broker.ErrUnavailable) {
				t.Errorf("another starts on it: %v", err)
			}
			if err := refuse.end(); err != nil {
				t.Fatal(err)
			}
			if err := broker.Inspect(t.Context(), b); err != nil || b.Admits() != nil {
				t.Errorf("afterwards: %v, %v", err, b.Admits())
			}
			submit(t, b, "after")
		})
	}
}

func hostOf(t *testing.T, from string) string {
	t.Helper()
	u, err := url.Parse(from)
	if err != nil {
		t.Fatal(err)
	}
	return u.Host
}
