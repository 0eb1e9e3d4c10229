package broker_test

import (
	"bytes"
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/broker"
)

// TestStatusByHandHasEveryField draws all fields of the document, also those that are
// added some day and that nobody thought to write by hand.
func TestStatusByHandHasEveryField(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var d api.Status
		draw(t, reflect.ValueOf(&d).Elem())
		var want bytes.Buffer
		encoder := json.NewEncoder(&want)
		encoder.SetEscapeHTML(false)
		if err := encoder.Encode(d); err != nil {
			t.Fatal(err)
		}
		got, err := broker.EncodeJSON(d)
		if err != nil {
			t.Fatal(err)
		}
		if string(got)+"\n" != want.String() {
			t.Fatalf("got  %s\nwant %s", got, want.String())
		}
	})
}

// draw sets v to anything, often to nothing.
func draw(t *rapid.T, v reflect.Value) {
	nothing := rapid.Bool().Draw(t, "nothing")
	if nothing {
		return
	}
	switch at := v.Addr().Interface().(type) {
	case *api.Time:
		*at = api.Time(time.UnixMilli(rapid.Int64Range(0, 1<<41).Draw(t, "ms")))
		return
	case *api.Raw:
		*at = api.Raw(rapid.SampledFrom([]string{`null`, ` {"a" : "<é"}`, `"\u2028"`}).Draw(t, "raw"))
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			draw(t, v.Field(i))
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		draw(t, v.Elem())
	case reflect.Slice:
		n := rapid.IntRange(0, 2).Draw(t, "length")
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		for i := range n {
			draw(t, v.Index(i))
		}
	case reflect.String:
		v.SetString(rapid.OneOf(rapid.StringMatching(`[ -~]*`), rapid.String(), rapid.SampledFrom([]string{"\xff", "\u2028", "<&>"})).Draw(t, "text"))
	case reflect.Int:
		v.SetInt(rapid.Int64().Draw(t, "number"))
	default:
		t.Fatalf("the document has a %s: draw it here", v.Type())
	}
}
