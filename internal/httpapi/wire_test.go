package httpapi_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/coatcheck/coatcheck/api"
)

// dial is a connection to the gateway without a client in between.
func (f *front) dial() net.Conn {
	f.t.Helper()
	conn, err := f.pipes.dial(f.t.Context(), "", "")
	if err != nil {
		f.t.Fatal(err)
	}
	return conn
}

// wired is all that came back over a connection, until the gateway closed it.
type wired struct {
	text  string
	after time.Duration
}

// is tells whether the first answer is this problem.
func (w wired) is(slug string) bool {
	kind, ok := api.ProblemNamed(slug)
	return ok && strings.HasPrefix(w.text, fmt.Sprintf("HTTP/1.1 %d %s\r\n", kind.Status, http.StatusText(kind.Status))) &&
		strings.Contains(w.text, `"type":"`+api.ProblemPath+slug+`"`) && (strings.Contains(w.text, "\r\nRetry-After: ") == kind.Retry)
}

// raw sends bytes as they are, and reads until the gateway closes the
// connection.
func (f *front) raw(send string) wired {
	f.t.Helper()
	conn, begun := f.dial(), time.Now()
	defer conn.Close()
	go io.WriteString(conn, send) // ends early where it is refused early
	got, _ := io.ReadAll(conn)
	return wired{string(got), time.Since(begun)}
}
