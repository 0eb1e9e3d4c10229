package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"

	"github.com/coatcheck/coatcheck/internal/httpapi"
)

// admin is the listener for operators. It is a part like the others, so that it
// answers until the drain is over: whoever watches sees the gateway go.
type admin struct {
	listener net.Listener
	server   *http.Server
}

func newAdmin(addr string, api *httpapi.Server, log *slog.Logger) (*admin, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("admin.addr: %w", err)
	}
	log.Info("metrics and profiles", "addr", l.Addr().String())
	return &admin{l, httpapi.NewHTTPServer(api.Admin(), log)}, nil
}

// Run serves until ctx ends.
func (a *admin) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { a.server.Close() })
	defer stop()
	if err := a.server.Serve(a.listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// AdminAddr is where operators look: a listener of its own, or Addr.
func (g *Gateway) AdminAddr() net.Addr {
	if g.admin == nil {
		return g.Addr()
	}
	return g.admin.listener.Addr()
}
