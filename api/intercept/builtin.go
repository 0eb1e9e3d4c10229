package intercept

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"golang.org/x/text/language"
	"golang.org/x/text/message"
)

// maxFaults bounds what a client is told of one body.
const maxFaults = 20

// RequestSchema refuses bodies that a JSON Schema (draft 2020-12 where it names
// no other) does not allow. A body that is no JSON is refused too.
func RequestSchema(schema []byte) (Interceptor, error) {
	compiled, err := compile(schema)
	if err != nil {
		return Interceptor{}, err
	}
	return Interceptor{Name: "request schema", Request: func(_ context.Context, r *Request) error {
		return validate(compiled, r.Body, "body of the request")
	}}, nil
}

// ReplySchema is RequestSchema for final replies.
func ReplySchema(schema []byte) (Interceptor, error) {
	compiled, err := compile(schema)
	if err != nil {
		return Interceptor{}, err
	}
	return Interceptor{Name: "reply schema", Reply: func(_ context.Context, r *Reply) error {
		return validate(compiled, r.Body, "reply of the worker")
	}}, nil
}

// AllowHeaders lets only these headers go to the worker; the others are dropped.
func AllowHeaders(names ...string) Interceptor {
	allowed := map[string]bool{}
	for _, name := range names {
		allowed[strings.ToLower(name)] = true
	}
	return Interceptor{Name: "header allow-list", Request: func(_ context.Context, r *Request) error {
		for name := range r.Headers {
			if !allowed[name] {
				delete(r.Headers, name)
			}
		}
		return nil
	}}
}

// MaxBody refuses larger request bodies, in bytes.
func MaxBody(most int) Interceptor {
	return Interceptor{Name: "size limit", Request: func(_ context.Context, r *Request) error {
		return tooLarge(len(r.Body), most, "body of the request")
	}}
}

// MaxReply refuses larger final replies, in bytes.
func MaxReply(most int) Interceptor {
	return Interceptor{Name: "size limit", Reply: func(_ context.Context, r *Reply) error {
		return tooLarge(len(r.Body), most, "reply of the worker")
	}}
}

func tooLarge(size, most int, what string) error {
	if size <= most {
		return nil
	}
	return &Refusal{Code: "too_large", Detail: fmt.Sprintf("The %s has %d bytes; this service takes at most %d.", what, size, most)}
}

func compile(schema []byte) (*jsonschema.Schema, error) {
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(schema))
	if err != nil {
		return nil, fmt.Errorf("the schema is no JSON: %w", err)
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	c.UseLoader(nowhere{})
	if err := c.AddResource("schema.json", document); err != nil {
		return nil, fmt.Errorf("read the schema: %w", err)
	}
	compiled, err := c.Compile("schema.json")
	if err != nil {
		return nil, fmt.Errorf("read the schema: %w", err)
	}
	return compiled, nil
}

// nowhere loads nothing: a schema is whole, and a gateway fetches nothing for it.
type nowhere struct{}

func (nowhere) Load(url string) (any, error) {
	return nil, fmt.Errorf("the schema refers to %s; it must be whole in itself", url)
}

func validate(schema *jsonschema.Schema, body []byte, what string) error {
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		return &Refusal{Code: "schema", Detail: fmt.Sprintf("The %s is no JSON, which this service wants.", what)}
	}
	invalid, ok := errors.AsType[*jsonschema.ValidationError](schema.Validate(value))
	if !ok {
		return nil
	}
	r := &Refusal{Code: "schema", Faults: faults(invalid, nil)}
	slices.SortStableFunc(r.Faults, func(a, b Fault) int { return strings.Compare(a.Pointer, b.Pointer) })
	r.Faults = slices.Compact(r.Faults)
	r.Faults = r.Faults[:min(len(r.Faults), maxFaults)]
	var places []string
	for _, f := range r.Faults[:min(3, len(r.Faults))] {
		at := f.Pointer
		if at == "" {
			at = "the whole"
		}
		places = append(places, at+": "+f.Detail)
	}
	r.Detail = fmt.Sprintf("The %s is not what the schema of this service wants: %s.", what, strings.Join(places, "; "))
	return r
}

var english = message.NewPrinter(language.English)

// faults gathers the causes at the leaves: what is above them only says where.
func faults(e *jsonschema.ValidationError, all []Fault) []Fault {
	if len(e.Causes) == 0 {
		return append(all, Fault{pointer(e.InstanceLocation), e.ErrorKind.LocalizedString(english)})
	}
	for _, cause := range e.Causes {
		all = faults(cause, all)
	}
	return all
}

var escaper = strings.NewReplacer("~", "~0", "/", "~1")

func pointer(path []string) string {
	var b strings.Builder
	for _, part := range path {
		b.WriteString("/" + escaper.Replace(part))
	}
	return b.String()
}
