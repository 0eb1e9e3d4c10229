package floor

import (
	"bufio"
	"context"
	"fmt"
	"net"
)

// XADDStream is where XADD writes.
const XADDStream = "raw"

// XADD adds entries with bodies of a size to a stream, as fast as Redis takes them
// from one connection with a full pipeline, until ctx ends. It knows no client
// library, which would be measured too.
func XADD(ctx context.Context, addr string, body int) error {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return fmt.Errorf("dial: %w", err)
	}
	defer context.AfterFunc(ctx, func() { c.Close() })()
	command := fmt.Appendf(nil, "*5\r\n$4\r\nXADD\r\n$3\r\n"+XADDStream+"\r\n$1\r\n*\r\n$4\r\nbody\r\n$%d\r\n", body)
	command = append(append(command, make([]byte, body)...), "\r\n"...)
	window := make(chan struct{}, flushers*batch) // one element for each entry under way
	go func() {
		out := bufio.NewWriterSize(c, maxBytes)
		for n := 1; ; n++ {
			select {
			case window <- struct{}{}:
			case <-ctx.Done():
				return
			}
			if _, err := out.Write(command); err != nil {
				return
			}
			if n%batch == 0 && out.Flush() != nil {
				return
			}
		}
	}()
	in := bufio.NewReader(c)
	for {
		if _, err := in.ReadSlice('\n'); err != nil { // $15
			break
		}
		if _, err := in.ReadSlice('\n'); err != nil { // the ID
			break
		}
		<-window
	}
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("read the answers: %w", err)
}
