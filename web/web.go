// Package web is the page at /ui/ and the contract at /docs, served from the
// binary as their sources are: there is no build step, so nothing can be stale.
// The libraries in vendor/ are byte-identical to their npm packages, which a
// test holds.
package web

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"encoding/hex"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strings"
)

//go:embed index.html app.js api.js style.css docs.html docs.js docs.css vendor
var files embed.FS

// Handler serves the page at /ui/ and the contract at /docs.
func Handler() http.Handler {
	const tight = "default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
	pagePolicy := tight + "style-src 'self'; script-src 'self' '" + importMapHash() + "'"
	docsPolicy := tight + "style-src 'self' 'unsafe-inline'; script-src 'self'" // Swagger UI writes style attributes
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, policy := strings.TrimPrefix(path.Clean(r.URL.Path), "/ui/"), pagePolicy
		switch name {
		case "/ui":
			name = "index.html"
		case "/docs":
			name, policy = "docs.html", docsPolicy
		}
		body, err := fs.ReadFile(files, name)
		if err != nil {
			http.NotFound(w, r)
			return
		}
		sum := sha256.Sum256(body)
		h := w.Header()
		h.Set("Content-Type", contentType(name))
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-cache") // asks each time; the ETag makes that cheap
		etag := `"` + hex.EncodeToString(sum[:8]) + `"`
		h.Set("ETag", etag)
		if r.Header.Get("If-None-Match") == etag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		_, _ = w.Write(body) // a reader that left is nobody's error
	})
}

func contentType(name string) string {
	if strings.HasSuffix(name, ".js") || strings.HasSuffix(name, ".mjs") {
		return "text/javascript; charset=utf-8"
	}
	if t := mime.TypeByExtension(path.Ext(name)); t != "" {
		return t
	}
	return "text/plain; charset=utf-8"
}

// importMapHash lets the one inline script run that has to be inline.
func importMapHash() string {
	page, err := fs.ReadFile(files, "index.html")
	if err != nil {
		panic("web: " + err.Error()) // embedded: can't be missing
	}
	_, rest, _ := bytes.Cut(page, []byte(`<script type="importmap">`))
	script, _, _ := bytes.Cut(rest, []byte("</script>"))
	sum := sha256.Sum256(script)
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}
