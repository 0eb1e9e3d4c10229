package config

import (
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/coatcheck/coatcheck/internal/span"
)

// Field is one thing that can be set.
type Field struct {
	Key     string // in the file, e.g. log.level
	Env     string // the whole name of the variable; "" for none
	Default string
	Meaning string
	Secret  bool // may also come from a file, by Env + "_FILE"
}

// Fields lists what can be set, in the order of Config.
func Fields() []Field {
	return fields(reflect.ValueOf(Default()), "", Prefix)
}

func fields(v reflect.Value, path, prefix string) (out []Field) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		key := path + f.Tag.Get("yaml")
		if inner := f.Tag.Get("envPrefix"); inner != "" {
			out = append(out, fields(v.Field(i), key+".", prefix+inner)...)
			continue
		}
		name := f.Tag.Get("env")
		if name == "-" {
			continue
		}
		out = append(out, Field{
			Key: key, Env: prefix + name, Default: shown(v.Field(i)),
			Meaning: f.Tag.Get("meaning"), Secret: f.Tag.Get("secret") == "yes",
		})
	}
	return out
}

func shown(v reflect.Value) string {
	switch value := v.Interface().(type) {
	case time.Duration:
		if value == 0 {
			return ""
		}
		return span.Text(value)
	case []string:
		return strings.Join(value, ",")
	case int:
		if value == 0 {
			return ""
		}
	}
	return fmt.Sprint(v.Interface())
}

// Table is the configuration table of the README.
func Table() string {
	var b strings.Builder
	b.WriteString("| key | environment | default | meaning |\n|---|---|---|---|\n")
	for _, f := range Fields() {
		name := "`" + f.Env + "`"
		if f.Secret {
			name += " (or `_FILE`)"
		}
		value := f.Default
		if value != "" {
			value = "`" + value + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", f.Key, name, value, f.Meaning)
	}
	return b.String()
}
