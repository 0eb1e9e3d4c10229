package broker

import (
	"encoding/json"
	"testing"

	"pgregory.net/rapid"
)

func TestForwardedHeadersAreJSON(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		headers := rapid.MapOfN(rapid.StringMatching(`[a-z-]+`), rapid.OneOf(rapid.StringMatching(`[ -~]*`), rapid.String()), 1, 12).Draw(t, "headers")
		want, err := json.Marshal(headers)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := encodeHeaders(headers); got != string(want) || err != nil {
			t.Fatalf("got %s, %v, want %s", got, err, want)
		}
	})
}
