package httpapi

import (
	"log/slog"
	"net/http"
	"time"
)

// Limits of a connection.
const (
	headerTimeout  = 5 * time.Second // a client that is slower is cut off without an answer
	idleTimeout    = 2 * time.Minute // above what common proxies keep, so that they close first
	maxHeaderBytes = 64 << 10        // of a call; above it net/http answers 431 by itself
)

// NewHTTPServer serves a handler of this gateway within the limits of a
// connection. It has no deadline for writing: streams and waits are long, and
// each answer that can be slow has a deadline of its own.
func NewHTTPServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes, ConnContext: withConn,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}
