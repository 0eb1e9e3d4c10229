package web_test

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coatcheck/coatcheck/web"
)

func TestServes(t *testing.T) {
	h := web.Handler()
	for path, want := range map[string]string{
		"/ui/": "text/html", "/ui/app.js": "text/javascript", "/ui/style.css": "text/css", "/ui/vendor/htm-3.1.1.mjs": "text/javascript",
		"/docs": "text/html", "/ui/docs.js": "text/javascript", "/ui/vendor/swagger-ui-5.35.0.css": "text/css",
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		if w.Code != 200 || !strings.HasPrefix(w.Header().Get("Content-Type"), want) {
			t.Errorf("%s: %d %s", path, w.Code, w.Header().Get("Content-Type"))
		}
		again := httptest.NewRequest("GET", path, nil)
		again.Header.Set("If-None-Match", w.Header().Get("ETag"))
		second := httptest.NewRecorder()
		if h.ServeHTTP(second, again); second.Code != 304 {
			t.Errorf("%s again: %d", path, second.Code)
		}
	}
	w := httptest.NewRecorder()
	if h.ServeHTTP(w, httptest.NewRequest("GET", "/ui/../web.go", nil)); w.Code != 404 {
		t.Errorf("outside: %d", w.Code)
	}
}

// The libraries are what npm serves, to the byte.
func TestVendored(t *testing.T) {
	sums, err := os.ReadFile("vendor/SHA256SUMS")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(sums)) {
		want, name, _ := strings.Cut(strings.TrimSpace(line), "  ")
		body, err := os.ReadFile(filepath.Join("vendor", name))
		if err != nil {
			t.Error(err)
			continue
		}
		if got := sha256.Sum256(body); hex.EncodeToString(got[:]) != want {
			t.Errorf("%s differs from its package", name)
		}
	}
}

// No request leaves the origin.
func TestNoForeignOrigins(t *testing.T) {
	for _, name := range []string{"index.html", "app.js", "api.js", "style.css", "docs.html", "docs.js", "docs.css"} {
		body, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(body), "http://") || strings.Contains(string(body), "https://") {
			t.Errorf("%s names another origin", name)
		}
	}
}
