package config

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
)

// wrong is a value of the file that can't be read; the library tells its own
// errors' lines, but not those of ours.
type wrong struct{ value, want string }

func (w wrong) Error() string { return fmt.Sprintf("%q is not %s", w.value, w.want) }

// inAuth is what is wrong below auth.
type inAuth struct{ what string }

func (e inAuth) Error() string { return "auth: " + e.what }

// placed is where the library says that an error is.
var placed = regexp.MustCompile(`^\[\d+:\d+\] `)

func oneLine(err error) string {
	return strings.Join(strings.Fields(yaml.FormatError(err, false, false)), " ")
}

// read reads the file over c. An error is one line, with the place in the file.
func (c *Config) read(raw []byte) error {
	err := yaml.UnmarshalWithOptions(raw, c, yaml.Strict(), yaml.CustomUnmarshaler(readDuration), yaml.CustomUnmarshaler(readInt))
	if err == nil {
		return blankAuth(raw)
	}
	if a, ok := errors.AsType[inAuth](err); ok {
		return a
	}
	if w, ok := errors.AsType[wrong](err); ok {
		return fmt.Errorf("%s%w", place(raw, w.value), w)
	}
	if t, ok := errors.AsType[*yaml.TypeError](err); ok && t.Token != nil {
		return fmt.Errorf("[%d:%d] %q can't stand here", t.Token.Position.Line, t.Token.Position.Column, t.Token.Value)
	}
	return errors.New(oneLine(err))
}

// blankAuth refuses an auth section with nothing in it: the library skips it, and
// a list of keys that was commented out would open the gateway to everybody.
func blankAuth(raw []byte) error {
	var sections map[string]any
	err := yaml.Unmarshal(raw, &sections)
	if value, there := sections["auth"]; there && value == nil {
		return errors.New("auth is empty: want none, or keys with a list of them")
	}
	return err
}

func readDuration(d *time.Duration, raw []byte) (err error) {
	text := scalar(raw)
	if *d, err = time.ParseDuration(text); err != nil {
		return wrong{text, "a duration such as 500ms, 30s or 24h"}
	}
	return nil
}

func readInt(n *int, raw []byte) (err error) {
	text := scalar(raw)
	if *n, err = strconv.Atoi(text); err != nil {
		return wrong{text, "a whole number"}
	}
	return nil
}

func scalar(raw []byte) string { return strings.Trim(strings.TrimSpace(string(raw)), `"'`) }

// place is where a value stands first, as the library says it.
func place(raw []byte, value string) string {
	number := 0
	for line := range strings.Lines(string(raw)) {
		number++
		if at := strings.Index(line, value); value != "" && at >= 0 && strings.Contains(line[:at], ":") {
			return fmt.Sprintf("[%d:%d] ", number, at+1)
		}
	}
	return ""
}
