package httpapi

import "github.com/go-chi/chi/v5"

// Routes are what the contract is compared with.
func Routes(s *Server) chi.Routes { return s.handler.(chi.Routes) }

// What the tests of parsing call.
var (
	Frame       = frame
	Preferences = func(lines ...string) (wait string, applied string) {
		p := preferences(map[string][]string{"Prefer": lines})
		return p.wait.String(), p.applied
	}
	ParseDuration = parseDuration
	Etag          = etag
	Matches       = matches
	ContentType   = contentType
)
