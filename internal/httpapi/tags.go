package httpapi

import (
	"slices"
	"strings"
)

// Limits of the tags of a request: they are part of its record.
const (
	maxTags = 8
	maxTag  = 64 // bytes
)

// tags reads repeated and comma-separated ones, each once, in the order given.
func tags(name string, given []string) (all []string, err error) {
	if len(given) == 0 {
		return nil, nil
	}
	for tag := range strings.SplitSeq(strings.Join(given, ","), ",") {
		tag = strings.TrimSpace(tag)
		if tag == "" || len(tag) > maxTag || strings.ContainsFunc(tag, func(c rune) bool { return c <= ' ' || c > '~' }) {
			return nil, fail("invalid-option", "%s has the tag %s; a tag is of 1 to %d visible ASCII characters, without white space, and a comma separates tags. Nothing was done.", name, quoted(tag), maxTag)
		}
		if !slices.Contains(all, tag) {
			all = append(all, tag)
		}
		if len(all) > maxTags {
			return nil, fail("invalid-option", "%s has more than %d tags. Nothing was done.", name, maxTags)
		}
	}
	return all, nil
}
