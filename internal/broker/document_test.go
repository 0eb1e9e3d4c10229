package broker_test

import (
	"testing"
	"unicode/utf8"

	"github.com/coatcheck/coatcheck/internal/broker"
)

func TestReplyInADocument(t *testing.T) {
	for name, test := range map[string]struct{ contentType, body, encoding, want string }{
		"JSON":            {"application/json; charset=utf-8", `{"a":"<b>"}`, "json", `{"a":"<b>"}`},
		"suffix":          {"application/problem+json", `1`, "json", `1`},
		"not JSON at all": {"application/json", `{`, "text", `"{"`},
		"broken UTF-8":    {"application/json", "\"\xff\"", "base64", `"Iv8i"`},
		"text":            {"text/plain", "a\n<b>", "text", `"a\n<b>"`},
		"NUL":             {"text/plain", "\x00", "base64", `"AA=="`},
		"empty":           {"", "", "text", `""`},
	} {
		t.Run(name, func(t *testing.T) {
			d := broker.Document(broker.Record{
				Status: broker.Succeeded,
				Reply:  &broker.Reply{ContentType: test.contentType, Size: len(test.body), Body: []byte(test.body)},
			}, "")
			if string(d.Reply.Encoding) != test.encoding || string(d.Reply.Body) != test.want {
				t.Errorf("%s %s, want %s %s", d.Reply.Encoding, d.Reply.Body, test.encoding, test.want)
			}
			raw, err := broker.EncodeJSON(d)
			if err != nil || !utf8.Valid(raw) {
				t.Errorf("the document is not valid: %q, %v", raw, err)
			}
		})
	}
}
