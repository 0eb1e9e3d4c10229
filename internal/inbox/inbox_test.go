package inbox

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/coatcheck/coatcheck/api/webhook"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const secret = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="

// post sends a signed callback and returns the status.
func post(t *testing.T, h http.Handler, path, id, body string, change ...func(*http.Request)) int {
	t.Helper()
	now := time.Now()
	signature, err := webhook.Sign(id, now, []byte(body), secret)
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
	r.Header.Set(webhook.HeaderID, id)
	r.Header.Set(webhook.HeaderTimestamp, fmt.Sprint(now.Unix()))
	r.Header.Set(webhook.HeaderSignature, signature)
	for _, c := range change {
		c(r)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code
}

func list(t *testing.T, h http.Handler, path string) []Attempt {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	if w.Code != http.StatusOK || w.Header().Get("Content-Type") != "application/json" {
		t.Fatalf("list: %d %s", w.Code, w.Header().Get("Content-Type"))
	}
	if !strings.HasPrefix(w.Body.String(), "[") {
		t.Fatalf("not an array: %s", w.Body)
	}
	var attempts []Attempt
	if err := json.Unmarshal(w.Body.Bytes(), &attempts); err != nil {
		t.Fatal(err)
	}
	return attempts
}

func lines(attempts []Attempt) (got []string) {
	for _, a := range attempts {
		got = append(got, fmt.Sprintf("%d %s %s", a.Status, a.Verdict, a.Body))
	}
	return got
}

func TestListsEveryAttempt(t *testing.T) {
	h := New(secret)
	if got := list(t, h, "/inbox/me"); len(got) != 0 {
		t.Errorf("new inbox has %v", got)
	}
	post(t, h, "/inbox/me", "e1", "good")
	post(t, h, "/inbox/me", "e2", "forged", func(r *http.Request) { r.Header.Set(webhook.HeaderID, "e3") })
	post(t, h, "/inbox/me", "e2", "bare", func(r *http.Request) { r.Header.Del(webhook.HeaderSignature) })
	post(t, h, "/inbox/me", "e2", "old", func(r *http.Request) { r.Header.Set(webhook.HeaderTimestamp, "1") })
	post(t, h, "/inbox/me", "e2", strings.Repeat("x", maxBody+1))
	post(t, h, "/inbox/me", "e2", "", func(r *http.Request) { r.Body = io.NopCloser(iotest.ErrReader(io.ErrUnexpectedEOF)) })
	post(t, h, "/inbox/me", "e4", "\xff\x00")
	post(t, h, "/inbox/you", "e5", "not mine")
	want := []string{
		"204 verified /wA=",
		"400 refused: the body could not be read ",
		"413 refused: the body is larger than 1048576 bytes ",
		"401 refused: webhook timestamp is too far from the present old",
		"400 refused: webhook headers are missing or malformed bare",
		"401 refused: webhook signature does not fit forged",
		"204 verified good",
	}
	got := list(t, h, "/inbox/me")
	if diff := cmp.Diff(want, lines(got)); diff != "" {
		t.Errorf("list (-want +got):\n%s", diff)
	}
	if last := got[len(got)-1]; last.Headers["webhook-id"] != "e1" || last.Encoding != "text" || time.Since(last.ReceivedAt) > time.Minute {
		t.Errorf("%+v", last)
	}
	if got[0].Encoding != "base64" {
		t.Errorf("bytes that are no text: %+v", got[0])
	}
}

func TestFailsAsPlanned(t *testing.T) {
	h := New(secret)
	got := func(path, id string) int { return post(t, h, path, id, "x") }
	plan := "/inbox/me?status=500&times=2"
	var codes []int
	for range 4 {
		codes = append(codes, got(plan, "e1"))
	}
	codes = append(codes, got(plan, "e2"), got("/inbox/you?status=503", "e1"), got("/inbox/you?status=503", "e1"))
	if want := []int{500, 500, 204, 204, 500, 503, 204}; !cmp.Equal(codes, want) {
		t.Errorf("answered %v, want %v", codes, want)
	}
	if code := post(t, h, plan, "e3", "x", func(r *http.Request) { r.Header.Set(webhook.HeaderID, "forged") }); code != 401 {
		t.Errorf("a forged one: %d", code)
	}
	if attempts := list(t, h, "/inbox/me"); attempts[1].Status != 500 || attempts[1].Verdict != "verified" {
		t.Errorf("a planned failure is listed as %+v", attempts[1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodDelete, "/inbox/me", nil))
	if w.Code != 204 || len(list(t, h, "/inbox/me")) != 0 || len(list(t, h, "/inbox/you")) != 2 {
		t.Errorf("delete: %d", w.Code)
	}
	if code := got(plan, "e1"); code != 500 {
		t.Errorf("after delete: %d, want it to fail anew", code)
	}
}

func TestBadCalls(t *testing.T) {
	h := New(secret)
	for path, want := range map[string]int{
		"/inbox/me?status=99": 400, "/inbox/me?status=x": 400, "/inbox/me?times=2": 400, "/inbox/me?status=500&times=-1": 400,
		"/inbox/me?status=500&times=1001": 400, "/inbox/" + strings.Repeat("x", 65): 404, "/inbox/a%2fb": 404, "/inbox/": 404, "/inbox": 404,
	} {
		if code := post(t, h, path, "e", "x"); code != want {
			t.Errorf("%s: %d, want %d", path, code, want)
		}
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodPut, "/inbox/me", nil))
	if w.Code != 405 {
		t.Errorf("PUT: %d", w.Code)
	}
}

// Whoever calls, and how often, the inbox stays small.
func TestBounds(t *testing.T) {
	b := &box{failed: map[string]int{}}
	for i := range maxKept + 10 {
		b.keep("me", Attempt{Body: fmt.Sprint(i)})
	}
	if got := b.of("me"); len(got) != maxKept || got[0].Body != fmt.Sprint(maxKept+9) {
		t.Errorf("%d kept, the newest %q", len(got), got[0].Body)
	}
	for i := range maxNames + 5 {
		b.keep(fmt.Sprint("name", i), Attempt{Body: "x"})
	}
	if len(b.of("me")) != 0 || len(b.of("name5")) != 1 || len(b.of("name4")) != 0 {
		t.Error("names are not bounded")
	}
	big := strings.Repeat("x", maxBody)
	for range 100 {
		b.keep("big", Attempt{Body: big})
	}
	if got := len(b.of("big")); got != maxBytes/maxBody || b.bytes > maxBytes {
		t.Errorf("%d large ones kept, %d bytes", got, b.bytes)
	}
	b.dropName("big")
	if b.bytes != 0 {
		t.Errorf("%d bytes of nothing", b.bytes)
	}
	for i := range maxRemember + 10 {
		b.fails(fmt.Sprint("me ", i), plan{500, 1})
	}
	if len(b.failed) != maxRemember || len(b.events) != maxRemember {
		t.Errorf("%d, %d events remembered", len(b.failed), len(b.events))
	}
}
