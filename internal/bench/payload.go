package bench

import (
	"crypto/rand"
	"encoding/hex"
)

// MinBody is the smallest body that can be unlike any other.
const MinBody = len(head) + runDigits + len(middle) + digits + len(tail) + len(end)

const (
	head   = `{"run":"`
	middle = `","n":"`
	tail   = `","pad":"`
	end    = `"}`

	runDigits = 16 // of the run
	digits    = 12 // of a number: the same width for all, so that it can be written over
)

// payload makes the bodies of a run: JSON, since replies of that kind stand in
// a status document as they are, and can be compared byte for byte.
type payload struct {
	body []byte // with the number 0
	at   int    // where the number is
}

func newPayload(size int) payload {
	var run [runDigits / 2]byte
	rand.Read(run[:])
	body := make([]byte, 0, size)
	body = append(body, head...)
	body = hex.AppendEncode(body, run[:])
	body = append(body, middle...)
	at := len(body)
	for range digits {
		body = append(body, '0')
	}
	body = append(body, tail...)
	pad := make([]byte, size-len(body)-len(end))
	rand.Read(pad)
	for i, b := range pad {
		pad[i] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"[b%64]
	}
	return payload{append(append(body, pad...), end...), at}
}

// write makes body, a copy of p's, that of request n.
func (p payload) write(body []byte, n int) { putNumber(body[p.at:], n) }

// of is a new body.
func (p payload) of(n int) []byte {
	body := append([]byte(nil), p.body...)
	p.write(body, n)
	return body
}

// putNumber writes n over the first digits of b.
func putNumber(b []byte, n int) {
	for i := digits - 1; i >= 0; i-- {
		b[i] = byte('0' + n%10)
		n /= 10
	}
}
