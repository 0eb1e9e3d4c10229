package gateway_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/coatcheck/coatcheck/internal/config"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// With a listener of their own, metrics and profiles are there alone; without
// one there are no profiles.
func TestAdminListener(t *testing.T) {
	redis := redistest.Mini(t)
	together := start(t, redis)
	if a := together.do("GET", "/metrics", ""); a.code != 200 || !strings.Contains(a.body, "coatcheck_stuck 0\n") {
		t.Errorf("/metrics on the one listener: %d", a.code)
	}
	if a := together.do("GET", "/debug/pprof/heap", ""); a.code != 404 {
		t.Errorf("profiles on the public listener: %d", a.code)
	}

	apart := start(t, redis, withKeys, func(c *config.Config) { c.Admin.Addr = "127.0.0.1:0" })
	apart.http = http.DefaultClient // the contract is the public listener's
	if a := apart.do("GET", "/metrics", "", "Authorization", "Bearer key-a"); a.code != 404 {
		t.Errorf("/metrics on the public listener beside an admin one: %d", a.code)
	}
	apart.url = apart.admin
	for path, code := range map[string]int{
		"/metrics": 401, "/debug/pprof/": 401, "/livez": 200, "/readyz": 200, "/v1/services": 404,
	} {
		if a := apart.do("GET", path, ""); a.code != code {
			t.Errorf("%s on the admin listener without a key: %d, want %d", path, a.code, code)
		}
	}
	for _, path := range []string{"/metrics", "/debug/pprof/heap?debug=1", "/debug/pprof/goroutine?debug=1"} {
		if a := apart.do("GET", path, "", "Authorization", "Bearer key-a"); a.code != 200 {
			t.Errorf("%s on the admin listener: %d", path, a.code)
		}
		if a := apart.do("GET", path, "", "Authorization", "Bearer key-b"); a.code != 403 {
			t.Errorf("%s on the admin listener without the scope: %d", path, a.code)
		}
	}
	if a := apart.do("GET", "/debug/pprof/cmdline", "", "Authorization", "Bearer key-a"); a.code != 404 {
		t.Errorf("the command line is shown: %d", a.code)
	}
}
