package broker

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// What is JSON, and how it reads without blanks, is what encoding/json says.
func sameJSON(t interface{ Errorf(string, ...any) }, b []byte) {
	if got, want := validJSON(b), json.Valid(b); got != want {
		t.Errorf("validJSON(%q) is %t", b, got)
	}
	var want bytes.Buffer
	if json.Compact(&want, b) != nil {
		return
	}
	if got := appendCompact(nil, b); !bytes.Equal(got, want.Bytes()) {
		t.Errorf("appendCompact(%q) is %q", b, got)
	}
}

func TestJSON(t *testing.T) {
	for _, text := range []string{
		"", " ", "nul", "nullx", "1 2", "-", "01", "1.", "1e", "1e+", "[1,]", "[,]", `{"a"}`, `{"a":}`, `{1:2}`, `{"a":1,}`, `"`, `"\`, `"\u12`, `"\u12"`, `"\x"`, "\"\n\"", "\x00", "1\x00",
		`"1234567\"`, `"12345\x78901234"`, `"1234567\"8901234"`, `"123"45678901234"`, "\"123\x1f45678901234\"",
		strings.Repeat("[", deepest) + strings.Repeat("]", deepest), strings.Repeat("[", deepest+1) + strings.Repeat("]", deepest+1),
	} {
		sameJSON(t, []byte(text))
	}
	token := rapid.SampledFrom([]string{"{", "}", "[", "]", ",", ":", `"a"`, `" b "`, `"\u00e9\n\\"`, `"\u00g0"`, "0", "-1", "1.5", "2e-7", "01", ".", "true", "false", "null", " ", "\n", "\t", "\r", "x", "1234567", `"`, `\`, "\x1f", "\xff", "é"})
	rapid.Check(t, func(t *rapid.T) {
		sameJSON(t, []byte(strings.Join(rapid.SliceOfN(token, 0, 12).Draw(t, "tokens"), "")))
	})
	leaf := rapid.OneOf(rapid.Just[any](nil), rapid.Map(rapid.Bool(), toAny), rapid.Map(rapid.Float64Range(-1e30, 1e30), toAny), rapid.Map(rapid.String(), toAny))
	value := leaf
	for range 3 {
		inner := value
		value = rapid.OneOf(leaf, rapid.Map(rapid.SliceOfN(inner, 0, 3), toAny), rapid.Map(rapid.MapOfN(rapid.String(), inner, 0, 3), toAny))
	}
	rapid.Check(t, func(t *rapid.T) {
		b, err := json.MarshalIndent(value.Draw(t, "value"), rapid.SampledFrom([]string{"", "\r\n"}).Draw(t, "prefix"), rapid.SampledFrom([]string{"", " ", "\t"}).Draw(t, "indent"))
		if err != nil {
			t.Fatal(err)
		}
		sameJSON(t, b)
		if at := rapid.IntRange(0, len(b)-1).Draw(t, "broken at"); rapid.Bool().Draw(t, "broken") {
			b[at] = rapid.Byte().Draw(t, "by")
			sameJSON(t, b)
		}
	})
}

func toAny[T any](v T) any { return v }

func BenchmarkValidJSON(b *testing.B) {
	body := []byte(`{"run":"0123456789abcdef","n":"000000000001","pad":"` + strings.Repeat("x", 960) + `"}`)
	for name, valid := range map[string]func([]byte) bool{"hand": validJSON, "encoding/json": json.Valid} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				valid(body)
			}
		})
	}
}

func FuzzJSON(f *testing.F) {
	f.Add([]byte(`{"a": [1.5e-7, "\u00e9", true, null]}`))
	f.Fuzz(func(t *testing.T, b []byte) { sameJSON(t, b) })
}
