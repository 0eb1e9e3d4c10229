package config

import (
	"fmt"
	"os"
	"strings"

	"github.com/coatcheck/coatcheck/api/intercept"
)

// Intercept is what is looked at in the requests and replies of a service, or of
// all.
type Intercept struct {
	RequestSchema string   `yaml:"request_schema"` // file with the JSON Schema of request bodies
	ReplySchema   string   `yaml:"reply_schema"`   // file with the JSON Schema of final replies
	Headers       []string `yaml:"headers"`        // the only ones that go to the worker; nil for all that do anyway
	MaxBody       Size     `yaml:"max_body"`       // 0: what holds for all services
	MaxReply      Size     `yaml:"max_reply"`      // 0: what holds for all services
	Redact        []string `yaml:"redact"`         // JSON Pointers of what the page at /ui/ does not show
}

// Interceptors reads the schemas and makes the links of a chain. Errors name the
// key and the file.
func (i Intercept) Interceptors() (links []intercept.Interceptor, err error) {
	if i.Headers != nil {
		links = append(links, intercept.AllowHeaders(i.Headers...))
	}
	if i.MaxBody > 0 {
		links = append(links, intercept.MaxBody(int(i.MaxBody)))
	}
	if i.MaxReply > 0 {
		links = append(links, intercept.MaxReply(int(i.MaxReply)))
	}
	for _, s := range []struct {
		key, path string
		compile   func([]byte) (intercept.Interceptor, error)
	}{{"request_schema", i.RequestSchema, intercept.RequestSchema}, {"reply_schema", i.ReplySchema, intercept.ReplySchema}} {
		if s.path == "" {
			continue
		}
		schema, err := os.ReadFile(s.path)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.key, err)
		}
		link, err := s.compile(schema)
		if err != nil {
			return nil, fmt.Errorf("%s: %s: %s", s.key, s.path, oneLine(err))
		}
		links = append(links, link)
	}
	for _, pointer := range i.Redact {
		if !strings.HasPrefix(pointer, "/") {
			return nil, fmt.Errorf("redact: %q is no JSON Pointer such as /card/number", pointer)
		}
	}
	return links, nil
}
