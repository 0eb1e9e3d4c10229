package broker

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
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

// They are read as encoding/json reads them, whoever wrote them.
func FuzzDecodeHeaders(f *testing.F) {
	for _, text := range []string{
		"", "{}", "null", `{"a":"b"}`, `{"a":"b","c":""}`, `{"a":"b","a":"c"}`, ` { "a" : "b" } `, `{"a":"b"} `, `{"a":"b",}`, `{"a":"b"`, `{"a":"b`, `{"a":""b"}`,
		`{"a":1}`, `{"a":null}`, `{"a":{"b":"c"}}`, `{"a" :"b","c":"d"}`, `{"a\"":"b"}`, `{"a":"\u0041<"}`, "{\"a\":\"\t\"}", "{\"a\":\"\xff\"}", `{"a":"b"}{"c":"d"}`, `["a","b"]`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var want map[string]string
		if json.Unmarshal(text, &want) != nil {
			want = nil
		}
		if diff := cmp.Diff(want, decodeHeaders(text)); diff != "" {
			t.Errorf("%q: %s", text, diff)
		}
	})
}
