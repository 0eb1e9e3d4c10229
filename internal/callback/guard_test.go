package callback

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"code.dny.dev/ssrf"
)

func guard(t *testing.T, allowed ...string) *Guard {
	t.Helper()
	g, err := NewGuard(allowed)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestCheckURL(t *testing.T) {
	tests := map[string]string{ // URL → part of the refusal, "" for accepted
		"https://example.com/hook?x=1":             "",
		"http://example.com:8080":                  "",
		"http://93.184.216.34/":                    "",
		"https://[2606:2800:220:1::1]/":            "",
		"HTTP://EXAMPLE.COM":                       "",
		"http://xn--bcher-kva.example./":           "",
		"":                                         "scheme",
		"example.com":                              "scheme",
		"/hook":                                    "scheme",
		"ftp://example.com":                        "scheme",
		"javascript:alert(1)":                      "scheme",
		"http://":                                  "no host",
		"http://:80":                               "no host",
		"http:example.com":                         "no host",
		"http://user:pw@example.com/":              "user name",
		"http://example.com:0/":                    "port",
		"http://example.com:99999/":                "port",
		"http://exa mple.com/":                     "no URL",
		"http://example.com/\r\nX: y":              "no URL",
		"http://example.com/ x":                    "white space",
		"http://%zz/":                              "no URL",
		"http://localhost/":                        "this machine",
		"http://LOCALHOST.:8080/":                  "this machine",
		"http://a.localhost/":                      "this machine",
		"http://127.0.0.1/":                        "private",
		"http://10.1.2.3/":                         "private",
		"http://172.16.0.1/":                       "private",
		"http://192.168.1.1/":                      "private",
		"http://169.254.169.254/latest/meta-data/": "private",
		"http://100.64.0.1/":                       "private",
		"http://0.0.0.0/":                          "private",
		"http://255.255.255.255/":                  "private",
		"http://224.0.0.1/":                        "private",
		"http://[::1]/":                            "private",
		"http://[::]/":                             "private",
		"http://[fd00::1]/":                        "private",
		"http://[fe80::1%25eth0]/":                 "private",
		"http://[::ffff:10.0.0.1]/":                "private",
		"http://[::ffff:7f00:1]/":                  "private",
		"http://[64:ff9b::7f00:1]/":                "private",
		"http://[2002:7f00:1::]/":                  "private",
		"http://127.1/":                            "usual form",
		"http://2130706433/":                       "usual form",
		"http://0x7f000001/":                       "usual form",
		"http://0177.0.0.1/":                       "usual form",
		"http://example.com/" + strings.Repeat("x", maxURL): "longer",
	}
	g := guard(t)
	for raw, want := range tests {
		err := g.CheckURL(raw)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v, want %q", raw, err, want)
		}
	}
	loopback := guard(t, "127.0.0.0/8", "::1", "10.1.0.0/16")
	for raw, ok := range map[string]bool{
		"http://127.0.0.1:8080/inbox/me": true, "http://localhost/": true, "http://[::1]/": true, "http://[::ffff:127.0.0.1]/": true,
		"http://10.1.2.3/": true, "http://10.2.2.3/": false, "http://[fd00::1]/": false, "http://192.168.1.1/": false,
	} {
		if err := loopback.CheckURL(raw); (err == nil) != ok {
			t.Errorf("%q with loopback and 10.1/16 allowed: %v", raw, err)
		}
	}
}

func TestNewGuardRefuses(t *testing.T) {
	for _, bad := range []string{"", "10.0.0.0/33", "localhost", "10.0.0.0/8,127.0.0.0/8", "::ffff:10.0.0.0/104"} {
		if _, err := NewGuard([]string{bad}); err == nil {
			t.Errorf("%q was taken for a network", bad)
		}
	}
}

// The address is checked when the connection is made: a name may mean
// something else by then.
func TestDialsOnlyWhatIsAllowed(t *testing.T) {
	called := false
	receiver := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { called = true }))
	defer receiver.Close()
	byName := strings.Replace(receiver.URL, "127.0.0.1", "localhost", 1)
	for _, url := range []string{receiver.URL, byName, strings.Replace(receiver.URL, "127.0.0.1", "[::ffff:127.0.0.1]", 1)} {
		s := newSender(guard(t), signer, "dev")
		v := s.send(t.Context(), message{url: url, id: "id"})
		s.transport.CloseIdleConnections()
		if v.delivered || !v.retry || !strings.Contains(v.reason, ssrf.ErrProhibitedIP.Error()) {
			t.Errorf("%s: %+v", url, v)
		}
	}
	if called {
		t.Fatal("a private address was called")
	}
	s := newSender(guard(t, "127.0.0.1"), signer, "dev")
	defer s.transport.CloseIdleConnections()
	if v := s.send(t.Context(), message{url: receiver.URL, id: "id"}); !v.delivered || !called {
		t.Errorf("allowed: %+v", v)
	}
}

// A proxy from the environment would be called in the receiver's stead.
func TestNoProxy(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:9")
	if proxy := newSender(guard(t), signer, "dev").transport.Proxy; proxy != nil {
		t.Error("callbacks would go through a proxy")
	}
}

func FuzzCheckURL(f *testing.F) {
	for _, seed := range []string{"http://example.com", "http://[::1%25x]:1", "https://a@b/", "http://127.1", "//x", "http://\x00"} {
		f.Add(seed)
	}
	g, err := NewGuard(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		if g.CheckURL(raw) != nil {
			return
		}
		if _, err := newSender(g, signer, "dev").request(t.Context(), message{url: raw, id: "id"}); err != nil {
			t.Errorf("%q was accepted and can't be called: %v", raw, err)
		}
	})
}
