package command

import (
	"slices"
	"strconv"
	"strings"

	"github.com/coatcheck/coatcheck/api/worker"
)

// prefix of all variables about a request.
const prefix = "COATCHECK_"

// environment is the worker's own with what is known of the request. The
// worker's own COATCHECK_ variables are left out: they hold passwords, and a
// program must not take them for those of its request.
func environment(own []string, r *worker.Request) []string {
	env := slices.DeleteFunc(slices.Clone(own), func(v string) bool {
		return strings.HasPrefix(v, prefix) || strings.HasPrefix(v, "TRACEPARENT=")
	})
	set := func(name, value string) {
		if !strings.ContainsRune(value, 0) { // no process could be started with it
			env = append(env, name+"="+value)
		}
	}
	set(prefix+"CORRELATION_ID", r.ID)
	set(prefix+"ATTEMPT", strconv.Itoa(r.Attempt))
	set(prefix+"SERVICE", r.Service)
	set(prefix+"CONTENT_TYPE", r.ContentType)
	set(prefix+"DEADLINE", strconv.FormatInt(r.Deadline.UnixMilli(), 10))
	if r.Traceparent != "" {
		set("TRACEPARENT", r.Traceparent)
	}
	for name, value := range r.Headers {
		set(prefix+"HEADER_"+variable(name), value)
	}
	return env
}

// variable turns a header name into one that every shell can read.
func variable(name string) string {
	return strings.Map(func(c rune) rune {
		switch {
		case c >= 'a' && c <= 'z':
			return c - 'a' + 'A'
		case c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
			return c
		}
		return '_'
	}, strings.TrimPrefix(name, ":"))
}
