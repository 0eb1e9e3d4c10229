package redisurl_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/coatcheck/coatcheck/internal/redisurl"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]redisurl.Target{
		"redis://h": {Kind: redisurl.Server, Network: "tcp", Addrs: []string{"h:6379"}},
		"redis://me:p%40ss@h:7/3": {
			Kind: redisurl.Server, Network: "tcp", Addrs: []string{"h:7"}, User: "me", Password: "p@ss", DB: 3,
		},
		"redis://[::1]":               {Kind: redisurl.Server, Network: "tcp", Addrs: []string{"[::1]:6379"}},
		"redis://[::1]:7":             {Kind: redisurl.Server, Network: "tcp", Addrs: []string{"[::1]:7"}},
		"unix:///run/r.sock":          {Kind: redisurl.Server, Network: "unix", Addrs: []string{"/run/r.sock"}},
		"unix://:s@/run/r.sock?db=2":  {Kind: redisurl.Server, Network: "unix", Addrs: []string{"/run/r.sock"}, Password: "s", DB: 2},
		"rediss://h?server_name=name": {Kind: redisurl.Server, Network: "tcp", Addrs: []string{"h:6379"}, TLS: &redisurl.TLS{ServerName: "name"}},
		"redis+cluster://a:1,b,c:3":   {Kind: redisurl.Cluster, Network: "tcp", Addrs: []string{"a:1", "b:6379", "c:3"}},
		"rediss+cluster://:s@a/0":     {Kind: redisurl.Cluster, Network: "tcp", Addrs: []string{"a:6379"}, Password: "s", TLS: &redisurl.TLS{}},
		"redis+sentinel://me:s@a,b:2/mymaster/1?sentinel_user=you&sentinel_password=t": {
			Kind: redisurl.Sentinel, Network: "tcp", Addrs: []string{"a:26379", "b:2"}, Master: "mymaster",
			User: "me", Password: "s", DB: 1, SentinelUser: "you", SentinelPassword: "t",
		},
	} {
		got, err := redisurl.Parse(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
		} else if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", text, diff)
		}
	}
}

// What can't be is said, and the password is not.
func TestRefusals(t *testing.T) {
	junk := filepath.Join(t.TempDir(), "junk.pem")
	if err := os.WriteFile(junk, []byte("no PEM"), 0o600); err != nil {
		t.Fatal(err)
	}
	for text, says := range map[string]string{
		"":                           "must begin with",
		"http://u:pw5@h":             "must begin with",
		"redis:h":                    "must begin with",
		"redis://":                   "must begin with",
		"redis://u:pw5%zz@h":         "percent-encoded",
		"redis://u:pw5@h:port":       "host that can't be read",
		"redis://u:pw5@h/x":          "database must be a number",
		"redis://u:pw5@a,b":          "redis+cluster://",
		"redis://u:pw5@h?ca=f":       "write rediss",
		"redis://u:pw5@h?pool=1":     `option "pool" is not known`,
		"unix://u:pw5@h/x":           "unix:///path",
		"redis+cluster://u:pw5@a,":   "host that can't be read",
		"redis+cluster://u:pw5@a/1":  "no databases but 0",
		"redis+sentinel://u:pw5@a":   "name of the master",
		"rediss://h?ca=/none/pw5ca":  "ca: open",
		"rediss://h?ca=" + junk:      "no certificate in PEM",
		"rediss://h?cert=a":          "belong together",
		"rediss://h?cert=a&key=b":    "cert and key: open",
		"rediss://h?skip_verify=so":  "true or false",
		"unix://u:pw5@/x?sentinel=1": "is not known",

		"rediss://h?skip_verify=true&ca=" + junk: "leave one of them out",
	} {
		_, err := redisurl.Parse(text)
		switch {
		case err == nil || !strings.Contains(err.Error(), says):
			t.Errorf("%s: %v, want %s", text, err, says)
		case strings.Contains(strings.ReplaceAll(err.Error(), "pw5ca", ""), "pw5"):
			t.Errorf("%s: the error has the password: %v", text, err)
		}
	}
}
