// Package api is the wire: the types of openapi.yaml, which is the authority,
// the registry of problem types, and the names of headers.
//
// The types are generated from the document; api/client, api/worker and
// api/webhook stand on them.
package api

//go:generate go run github.com/oapi-codegen/oapi-codegen/v2/cmd/oapi-codegen@v2.8.2 -config codegen.yaml ../openapi.yaml
//go:generate cp ../openapi.yaml openapi.gen.yaml

import (
	_ "embed" // of the contracts
	"encoding/json"
	"fmt"
	"time"
)

// Contract is openapi.yaml. An embed can't reach above its folder, so it is a
// generated copy, which `make verify` holds equal.
//
//go:embed openapi.gen.yaml
var Contract []byte

// WorkerProtocol is asyncapi.yaml: what workers read from Redis and write there.
//
//go:embed asyncapi.yaml
var WorkerProtocol []byte

// Time is an instant as the wire has it: RFC 3339 in UTC, with milliseconds
// always, so that equal documents have equal bytes.
type Time time.Time

const timeLayout = "2006-01-02T15:04:05.000Z07:00"

// MarshalText writes RFC 3339 with milliseconds.
func (t Time) MarshalText() ([]byte, error) {
	return time.Time(t).UTC().AppendFormat(make([]byte, 0, len(timeLayout)), timeLayout), nil
}

// UnmarshalText reads RFC 3339.
func (t *Time) UnmarshalText(text []byte) error {
	parsed, err := time.Parse(time.RFC3339Nano, string(text))
	if err != nil {
		return fmt.Errorf("read a time: %w", err)
	}
	*t = Time(parsed)
	return nil
}

// String is the form on the wire.
func (t Time) String() string { return time.Time(t).UTC().Format(timeLayout) }

// IsZero tells whether there is no instant; such a field is left out.
func (t Time) IsZero() bool { return time.Time(t).IsZero() }

// Raw is JSON that is passed on as it is.
type Raw = json.RawMessage
