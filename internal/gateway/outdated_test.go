package gateway_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/config"
	"github.com/coatcheck/coatcheck/internal/gateway"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// A gateway does not go on beside one of a later version, whose data it would take for
// garbage.
func TestLaterVersionTakesOver(t *testing.T) {
	r := redistest.Start(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g, err := gateway.Start(t.Context(), gateway.Options{Config: config.Default(), RedisURL: r.URL, Listener: listener, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Client.HSet(t.Context(), "cc:config", "protocol", "999").Err(); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(t.Context(), 30*time.Second)
	defer stop()
	if err := g.Run(ctx); !errors.Is(err, broker.ErrProtocol) {
		t.Errorf("it ended with %v", err)
	}
}
