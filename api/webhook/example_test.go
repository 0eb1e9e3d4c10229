package webhook_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/coatcheck/coatcheck/api/webhook"
)

// A receiver verifies before it reads.
func ExampleVerify() {
	secret := webhook.NewSecret()
	receive := func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
		if err != nil {
			http.Error(w, "body too large", http.StatusRequestEntityTooLarge)
			return
		}
		if err := webhook.Verify(r.Header, body, secret); err != nil {
			http.Error(w, "bad signature", http.StatusUnauthorized)
			return
		}
		fmt.Printf("%s is told: %s\n", r.Header.Get(webhook.HeaderID), body)
		w.WriteHeader(http.StatusNoContent)
	}

	// What the sender does:
	body, at := `{"type":"request.succeeded"}`, time.Now()
	signature, err := webhook.Sign("event-1", at, []byte(body), secret)
	if err != nil {
		fmt.Println(err)
		return
	}
	r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
	r.Header.Set(webhook.HeaderID, "event-1")
	r.Header.Set(webhook.HeaderTimestamp, fmt.Sprint(at.Unix()))
	r.Header.Set(webhook.HeaderSignature, signature)

	w := httptest.NewRecorder()
	receive(w, r)
	fmt.Println(w.Code)
	// Output:
	// event-1 is told: {"type":"request.succeeded"}
	// 204
}
