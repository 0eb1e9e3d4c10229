package api

import "strings"

// ProblemType is one kind of error with a stable name.
type ProblemType struct {
	Slug    string // of its page, /problems/<slug>
	Status  int    // HTTP status
	Title   string
	Meaning string // what it means for the request and what to do next
	Retry   bool   // the same call may succeed later
}

// ProblemPath is where the pages about problem types live.
const ProblemPath = "/problems/"

// ProblemNamed finds a type by the `type` of a problem document or by its slug.
func ProblemNamed(name string) (ProblemType, bool) {
	slug := name[strings.LastIndex(name, "/")+1:]
	for _, p := range Problems {
		if p.Slug == slug {
			return p, true
		}
	}
	return ProblemType{}, false
}

// New makes a problem document of this type.
func (p ProblemType) New(detail string) Problem {
	if detail == "" {
		detail = p.Meaning
	}
	return Problem{Type: ProblemPath + p.Slug, Title: p.Title, Status: p.Status, Detail: detail}
}

// Error makes a Problem an error for clients.
func (p Problem) Error() string { return p.Title + ": " + p.Detail }
