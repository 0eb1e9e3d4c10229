package api

import "regexp"

// ServicePattern is what a service may be called: a name is part of URLs, Redis
// keys, metrics and logs, and must look the same in all of them. Lower case
// only, so that no two services differ by their case alone. openapi.yaml has
// the same text, which a test holds.
const ServicePattern = `^[a-z0-9][a-z0-9._-]{0,63}$`

// ServiceNames says the pattern in words, for errors.
const ServiceNames = "1 to 64 lower-case letters, digits, '.', '_' and '-', the first a letter or digit"

var servicePattern = regexp.MustCompile(ServicePattern)

// ValidService tells whether a service may be called so.
func ValidService(name string) bool { return servicePattern.MatchString(name) }
