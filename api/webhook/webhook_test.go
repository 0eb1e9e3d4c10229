package webhook_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coatcheck/coatcheck/api/webhook"
)

// secret is 32 bytes 0, 1, 2 …, so that the golden signature can be made by hand.
const secret = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="

func header(id, timestamp, signature string) http.Header {
	h := http.Header{}
	h.Set("webhook-id", id)
	h.Set("webhook-timestamp", timestamp)
	h.Set("webhook-signature", signature)
	return h
}

// The signed bytes are "<id>.<unix seconds>.<body>", as any other implementation
// of the specification has them:
//
//	printf '%s' 'msg_1.1700000000.{"a":1}' | openssl dgst -sha256 -mac HMAC -macopt hexkey:000102…1f -binary | base64
func TestSignGolden(t *testing.T) {
	got, err := webhook.Sign("msg_1", time.Unix(1700000000, 999), []byte(`{"a":1}`), secret)
	if err != nil {
		t.Fatal(err)
	}
	if want := "v1,AMaOha7DUT/0J0JMycRuYOBSvbx3WtwLd2khXXbaVj4="; got != want {
		t.Errorf("signature %q, want %q", got, want)
	}
}

// One signer says of every message what a new one would, whoever else uses it.
func TestSigner(t *testing.T) {
	secrets := []string{secret, webhook.NewSecret()}
	s, err := webhook.NewSigner(secrets...)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for n := range 50 {
				id, body, at := fmt.Sprint("msg_", i), bytes.Repeat([]byte{byte(n)}, 7*n), time.Unix(int64(n), 0)
				want, err := webhook.Sign(id, at, body, secrets...)
				if got := s.Sign(id, at, body); err != nil || got != want {
					t.Errorf("%s, %d: %s, want %s, %v", id, n, got, want, err)
				}
			}
		})
	}
	all.Wait()
	if _, err := webhook.NewSigner(); !errors.Is(err, webhook.ErrSecret) {
		t.Errorf("without a secret: %v", err)
	}
}

func TestVerify(t *testing.T) {
	other := webhook.NewSecret()
	body := []byte("body")
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		sign := func(at time.Time, secrets ...string) http.Header {
			t.Helper()
			s, err := webhook.Sign("id", at, body, secrets...)
			if err != nil {
				t.Fatal(err)
			}
			return header("id", fmt.Sprint(at.Unix()), s)
		}
		tampered := sign(now, secret)
		tampered.Set("webhook-id", "other")
		tests := map[string]struct {
			header  http.Header
			secrets []string
			want    error
		}{
			"good":                {sign(now, secret), []string{secret}, nil},
			"receiver rotates":    {sign(now, secret), []string{other, secret}, nil},
			"sender rotates":      {sign(now, other, secret), []string{secret}, nil},
			"almost too old":      {sign(now.Add(-5*time.Minute), secret), []string{secret}, nil},
			"too old":             {sign(now.Add(-5*time.Minute-time.Second), secret), []string{secret}, webhook.ErrTimestamp},
			"too new":             {sign(now.Add(5*time.Minute+time.Second), secret), []string{secret}, webhook.ErrTimestamp},
			"other secret":        {sign(now, secret), []string{other}, webhook.ErrSignature},
			"other id":            {tampered, []string{secret}, webhook.ErrSignature},
			"no headers":          {http.Header{}, []string{secret}, webhook.ErrHeaders},
			"timestamp no number": {header("id", "soon", "v1,x"), []string{secret}, webhook.ErrHeaders},
			"signature no pair":   {header("id", fmt.Sprint(now.Unix()), "v1"), []string{secret}, webhook.ErrSignature},
			"too many":            {header("id", fmt.Sprint(now.Unix()), strings.Repeat("v1,x ", 17)), []string{secret}, webhook.ErrHeaders},
			"no secret":           {sign(now, secret), nil, webhook.ErrSecret},
		}
		for name, test := range tests {
			if err := webhook.Verify(test.header, body, test.secrets...); !errors.Is(err, test.want) {
				t.Errorf("%s: %v, want %v", name, err, test.want)
			}
		}
		if err := webhook.Verify(sign(now, secret), []byte("Body"), secret); !errors.Is(err, webhook.ErrSignature) {
			t.Errorf("other body: %v", err)
		}
	})
}

func TestSecrets(t *testing.T) {
	if a, b := webhook.NewSecret(), webhook.NewSecret(); a == b || webhook.Check(a) != nil {
		t.Errorf("new secrets %q, %q", a, b)
	}
	for _, bad := range []string{"", "whsec_", "secret", "whsec_AAEC", "whsec_!", strings.TrimPrefix(secret, "whsec_"), "whsec_" + base64.StdEncoding.EncodeToString(make([]byte, 65))} {
		if err := webhook.Check(bad); !errors.Is(err, webhook.ErrSecret) {
			t.Errorf("%q: %v", bad, err)
		}
		if _, err := webhook.Sign("id", time.Now(), nil, bad); !errors.Is(err, webhook.ErrSecret) {
			t.Errorf("sign with %q: %v", bad, err)
		}
		if bad != "" && strings.Contains(fmt.Sprint(webhook.Check(bad)), strings.TrimPrefix(bad, "whsec_")) && len(bad) > 8 {
			t.Errorf("the error quotes the secret %q", bad)
		}
	}
	if _, err := webhook.Sign("id", time.Now(), nil); !errors.Is(err, webhook.ErrSecret) {
		t.Errorf("sign without a secret: %v", err)
	}
}

// What can't be a signature is refused, whatever the headers say, and a true
// signature is found among any others.
func FuzzVerify(f *testing.F) {
	f.Add("id", "1700000000", "v1,abc", []byte("body"))
	f.Add("", "", "", []byte{})
	f.Add("id", "9223372036854775807", "v1,", []byte("x"))
	f.Add("id", "-9223372036854775808", "v1,a,b v2,c  ,", []byte("x"))
	f.Add("a.b", "+1", strings.Repeat(" ", 40), []byte("\x00"))
	f.Fuzz(func(t *testing.T, id, timestamp, signature string, body []byte) {
		if err := webhook.Verify(header(id, timestamp, signature), body, secret); err == nil {
			t.Fatalf("forged: id %q at %q, %q", id, timestamp, signature)
		}
		now := time.Now()
		s, err := webhook.Sign(id, now, body, secret)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Count(signature, " ") > 10 || id == "" {
			return
		}
		if err := webhook.Verify(header(id, fmt.Sprint(now.Unix()), signature+" "+s), body, secret); err != nil {
			t.Fatalf("true signature after %q: %v", signature, err)
		}
	})
}
