package auth_test

import (
	"encoding/base64"
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/coatcheck/coatcheck/internal/auth"
)

const id = "01a20a5f-355f-8000-919e-d506fa464119"

var (
	secret = []byte("a secret of the deployment, 32 b")
	now    = time.Unix(1_795_470_112, 0)
)

func TestKeyAuthenticates(t *testing.T) {
	mine, other := auth.NewKey(), auth.NewKey()
	if mine == other || !strings.HasPrefix(mine, "cck_") {
		t.Fatalf("keys %q and %q", mine, other)
	}
	keys := auth.Keys{
		{Name: "other", Hash: auth.Hash(other), Tenant: "globex", Scopes: []auth.Scope{auth.Submit}},
		{Name: "mine", Hash: auth.Hash(mine), Tenant: "acme", Scopes: []auth.Scope{auth.Read, auth.Cancel}},
	}
	if err := keys.Check(); err != nil {
		t.Fatal(err)
	}
	for _, header := range []string{"Bearer " + mine, "bearer " + mine, "Bearer  " + mine} {
		who, err := keys.Authenticate(header)
		if err != nil || who.Tenant != "acme" {
			t.Errorf("%q: %+v, %v", header, who, err)
		}
		if !who.May(auth.Read) || who.May(auth.Submit) || who.May(auth.Admin) {
			t.Errorf("%q: scopes %v", header, who.Scopes)
		}
	}
	for _, header := range []string{
		"", "Bearer", "Bearer ", mine, "Basic " + mine, "Bearer " + mine + "x", "Bearer " + mine[:len(mine)-1],
		"Bearer " + auth.Hash(mine), "Bearer " + auth.NewKey(),
	} {
		if who, err := keys.Authenticate(header); !errors.Is(err, auth.ErrUnauthenticated) || who.Tenant != "" {
			t.Errorf("%q: %+v, %v", header, who, err)
		}
	}
}

func TestNoKeysConfigured(t *testing.T) {
	who, err := auth.Keys(nil).Authenticate("")
	if diff := cmp.Diff(auth.Principal{Tenant: "default", Scopes: auth.Scopes}, who); diff != "" || err != nil {
		t.Errorf("none needed: %v %s", err, diff)
	}
	if _, err := (auth.Keys{}).Authenticate(""); !errors.Is(err, auth.ErrUnauthenticated) {
		t.Errorf("an empty list opens the gateway: %v", err)
	}
}

func TestCheckNamesWhatIsWrong(t *testing.T) {
	good := auth.Key{Name: "ci", Hash: auth.Hash("x"), Tenant: "acme", Scopes: []auth.Scope{auth.Read}}
	for want, change := range map[string]func(*auth.Key){
		"hash of API key":   func(k *auth.Key) { k.Hash = "cck_plain" },
		"64 hexadecimal":    func(k *auth.Key) { k.Hash = "sha256:abcd" },
		"in lower case":     func(k *auth.Key) { k.Hash = "sha256:" + strings.Repeat("AB", 32) },
		"have the same":     func(k *auth.Key) { k.Hash = good.Hash },
		"tenant of API key": func(k *auth.Key) { k.Tenant = "" },
		`scope "reed"`:      func(k *auth.Key) { k.Scopes = []auth.Scope{"reed"} },
	} {
		bad := auth.Key{Name: "cd", Hash: auth.Hash("y"), Tenant: "acme"}
		change(&bad)
		if err := (auth.Keys{good, bad}).Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want an error about %s, got %v", want, err)
		}
	}
}

// TestHowLongItTakesTellsNothing: a key is looked for among all, wherever it is
// and whether it is there or not.
func TestHowLongItTakesTellsNothing(t *testing.T) {
	keys := make(auth.Keys, 20_000)
	for i := range keys {
		keys[i] = auth.Key{Hash: auth.Hash(strconv.Itoa(i)), Tenant: "t"}
	}
	fastest := func(key string) time.Duration {
		least := time.Hour
		for range 20 {
			begun := time.Now()
			keys.Authenticate("Bearer " + key)
			least = min(least, time.Since(begun))
		}
		return least
	}
	first, last, none := fastest("0"), fastest(strconv.Itoa(len(keys)-1)), fastest("none")
	if longest := max(first, last, none); longest > 5*min(first, last, none) {
		t.Errorf("first %v, last %v, none %v", first, last, none)
	}
}

// TestHashIsPinned: configurations hold these.
func TestHashIsPinned(t *testing.T) {
	const want = "sha256:81aadbdcb5e58e5612d493f83618095fbf07260ff51271ead0c596fc994ca27c"
	if got := auth.Hash("cck_test"); got != want {
		t.Errorf("hash %q", got)
	}
}

func TestTicketOpensOneStreamForAWhile(t *testing.T) {
	ticket := auth.Ticket(secret, id, "acme.corp é", now.Add(5*time.Minute))
	for _, at := range []time.Duration{0, time.Minute, 5 * time.Minute} { // as often as needed
		who, err := auth.CheckTicket(secret, ticket, id, now.Add(at))
		if err != nil || who.Tenant != "acme.corp é" || !slices.Equal(who.Scopes, []auth.Scope{auth.Read}) {
			t.Errorf("after %v: %+v, %v", at, who, err)
		}
	}
	parts := strings.Split(ticket, ".")
	later := strings.Join([]string{"9999999999", parts[1], parts[2]}, ".")
	stolen := strings.Join([]string{parts[0], base64.RawURLEncoding.EncodeToString([]byte("globex")), parts[2]}, ".")
	for name, c := range map[string]struct {
		ticket, id string
		at         time.Time
		secret     []byte
	}{
		"expired":         {ticket, id, now.Add(5*time.Minute + time.Second), secret},
		"another request": {ticket, strings.Replace(id, "1", "2", 1), now, secret},
		"another secret":  {ticket, id, now, []byte("another")},
		"made longer":     {later, id, now, secret},
		"another tenant":  {stolen, id, now, secret},
		"cut":             {ticket[:len(ticket)-1], id, now, secret},
		"empty":           {"", id, now, secret},
		"dots":            {"..", id, now, secret},
		"garbage":         {"\x00\xff", id, now, secret},
	} {
		if who, err := auth.CheckTicket(c.secret, c.ticket, c.id, c.at); !errors.Is(err, auth.ErrTicket) || who.Tenant != "" {
			t.Errorf("%s: %+v, %v", name, who, err)
		}
	}
}

func FuzzCheckTicket(f *testing.F) {
	f.Add(auth.Ticket(secret, id, "acme", now))
	f.Add("")
	f.Add("1..")
	f.Add("9999999999.YWNtZQ.AAAAAAAAAAAAAAAAAAAAAA")
	good := auth.Ticket(secret, id, "acme", now)
	f.Fuzz(func(t *testing.T, ticket string) {
		if _, err := auth.CheckTicket(secret, ticket, id, now); err == nil && ticket != good {
			t.Errorf("%q opens the stream", ticket)
		}
	})
}
