package httpapi_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/coatcheck/coatcheck/internal/httpapi"
)

// TestBatchOfMillions: what a body full of tiny items or fields takes to be refused is
// bound by its size; as Go values it would take fifty times as much.
func TestBatchOfMillions(t *testing.T) {
	many := bytes.Repeat([]byte("0,"), 5<<20-2)
	fields := bytes.NewBufferString(`{"service":"echo"`)
	for i := range 700_000 {
		fmt.Fprintf(fields, `,"%x":0`, i)
	}
	fields.WriteString("}")
	for name, read := range map[string]func() error{
		"array": func() error {
			_, err := httpapi.BatchItems("application/json", append(append([]byte("["), many...), "0]"...))
			return err
		},
		"lines": func() error {
			_, err := httpapi.BatchItems("application/jsonl", bytes.ReplaceAll(many, []byte(","), []byte("\n")))
			return err
		},
		"fields": func() error {
			if _, ok := httpapi.FieldsOf(fields.Bytes()); ok {
				return nil
			}
			return fmt.Errorf("more than %d fields", 64)
		},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := read()
		runtime.ReadMemStats(&after)
		if err == nil || !strings.Contains(err.Error(), "more than") {
			t.Errorf("%s: %v", name, err)
		}
		if took := after.TotalAlloc - before.TotalAlloc; took > 40<<20 { // the test's own copies
			t.Errorf("%s took %d MiB", name, took>>20)
		}
	}
}

// TestFieldsOf: the cut is where encoding/json has it.
func TestFieldsOf(t *testing.T) {
	for _, text := range []string{
		`{}`, ` { "a" : 1 , "b":[1,{"c":"},]"}] } `, `{"a\"b":"x\\","c":{"d":[]}}`, `{"\u0061":"\u0000"}`, `{"":null}`,
		`[]`, `null`, `{`, `{"a":}`, `{"a":1}{}`, "", `{"a":1,}`, "{\"a\":\"\xff\"}",
	} {
		var want map[string]json.RawMessage
		fine := json.Unmarshal([]byte(text), &want) == nil && want != nil
		got, ok := httpapi.FieldsOf([]byte(text))
		if ok != fine || ok && cmp.Diff(want, got) != "" {
			t.Errorf("%s: %v %s, want %v %s", text, ok, got, fine, want)
		}
	}
	for _, text := range []string{`{"a":1,"a":2}`, `{"a":1,"b":0,"\u0061":1}`} {
		if got, ok := httpapi.FieldsOf([]byte(text)); ok {
			t.Errorf("%s: %s", text, got)
		}
	}
	for text, want := range map[string]int{`[]`: 0, `[1]`: 1, ` [ "a,b" , [1,2] , {"c":3,"d":4} ] `: 3} {
		if items, err := httpapi.BatchItems("application/json", []byte(text)); len(items) != want || (err == nil) != (want > 0) {
			t.Errorf("%s: %q, %v", text, items, err)
		}
	}
}
