package embedded_test

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/coatcheck/coatcheck/internal/embedded"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, addr string) *embedded.Redis {
	t.Helper()
	r, err := embedded.Start(addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// talk sends commands one by one and returns the first line of each answer.
func talk(t *testing.T, r *embedded.Redis, commands ...string) (answers []string) {
	t.Helper()
	c, err := net.Dial("tcp", r.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	in := bufio.NewReader(c)
	for _, command := range commands {
		fmt.Fprintf(c, "%s\r\n", array(command))
		line, err := in.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		answers = append(answers, strings.TrimSpace(line))
	}
	return answers
}

// array is a command as clients send it.
func array(command string) string {
	words := strings.Fields(command)
	var b strings.Builder
	fmt.Fprintf(&b, "*%d", len(words))
	for _, w := range words {
		fmt.Fprintf(&b, "\r\n$%d\r\n%s", len(w), w)
	}
	return b.String()
}

func password(t *testing.T, r *embedded.Redis) string {
	t.Helper()
	u, err := url.Parse(r.URL)
	if err != nil {
		t.Fatal(err)
	}
	p, _ := u.User.Password()
	return p
}

func TestNeedsItsPassword(t *testing.T) {
	one, other := start(t, "127.0.0.1:0"), start(t, "127.0.0.1:0")
	if p := password(t, one); len(p) < 20 || p == password(t, other) {
		t.Errorf("passwords %q and %q", p, password(t, other))
	}
	for _, got := range talk(t, one, "PING", "GET a", "AUTH "+password(t, other), "FLUSHALL") {
		if !strings.HasPrefix(got, "-NOAUTH") && !strings.HasPrefix(got, "-WRONGPASS") {
			t.Errorf("without the password: %s", got)
		}
	}
	if got := talk(t, one, "AUTH "+password(t, one), "PING"); got[1] != "+PONG" {
		t.Errorf("with it: %v", got)
	}
}

// The embedded Redis does not look at the clock by itself. Keys are set at all
// times between its ticks: none may go long before its time.
func TestKeysExpire(t *testing.T) {
	const life, early, late = 400 * time.Millisecond, 250 * time.Millisecond, 10 * time.Second
	r := start(t, "127.0.0.1:0")
	auth := "AUTH " + password(t, r)
	talk(t, r, auth, "SET long x PX 60000", "SET forever x")
	var born []time.Time
	gone := map[int]bool{}
	for tick := time.NewTicker(20 * time.Millisecond); len(gone) < 50; <-tick.C {
		if n := len(born); n < 50 {
			born = append(born, time.Now())
			talk(t, r, auth, fmt.Sprintf("SET key%d x PX %d", n, life.Milliseconds()))
		}
		got := talk(t, r, auth, "EXISTS long", "EXISTS forever")
		if got[1] != ":1" || got[2] != ":1" {
			t.Fatalf("more expired than should: %v", got)
		}
		for n, at := range born {
			if gone[n] {
				continue
			}
			gone[n] = talk(t, r, auth, fmt.Sprintf("EXISTS key%d", n))[1] == ":0"
			switch age := time.Since(at); {
			case !gone[n] && age > late:
				t.Fatalf("key %d is still there after %v", n, age)
			case gone[n] && age < life-early:
				t.Errorf("key %d is gone after %v", n, age)
			case !gone[n]:
				delete(gone, n)
			}
		}
	}
}

func TestAddressIsTakenAndGivenBack(t *testing.T) {
	r, err := embedded.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := embedded.Start(r.Addr()); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a second one: %v", err)
	}
	addr := r.Addr()
	r.Close()
	start(t, addr)
}
