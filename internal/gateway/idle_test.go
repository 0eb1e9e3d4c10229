package gateway_test

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"strings"
	"testing"

	"github.com/coatcheck/coatcheck/internal/config"
	"github.com/coatcheck/coatcheck/internal/gateway"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// Who starts on a Redis Cluster with fewer partitions than it has masters is told so, and
// what to do; who does that is not.
func TestIdleMasters(t *testing.T) {
	cluster := redistest.StartCluster(t, 2, 0)
	for _, test := range []struct{ partitions, lines int }{{1, 1}, {16, 0}} {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		c := config.Default()
		c.Partitions = test.partitions
		var log bytes.Buffer
		g, err := gateway.Start(t.Context(), gateway.Options{Config: c, RedisURL: cluster.URL, Listener: listener, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		ended, stop := context.WithCancel(t.Context())
		stop()
		text := log.String()
		if err := g.Run(ended); err != nil {
			t.Error(err)
		}
		if strings.Count(text, "masters=2 idle=1 partitions=1") != test.lines || strings.Count(text, "no partition to serve") != test.lines {
			t.Errorf("with %d partitions: %s", test.partitions, text)
		}
	}
}
