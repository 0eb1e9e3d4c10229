package quickredis_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/alicebob/miniredis/v2/server"
	"go.uber.org/goleak"

	"github.com/coatcheck/coatcheck/internal/quickredis"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// client sends commands and returns the bytes of the answers.
type client struct {
	t testing.TB
	c net.Conn
	r *bufio.Reader
}

func dial(t testing.TB, to interface{ Dial() (net.Conn, error) }) *client {
	t.Helper()
	c, err := to.Dial()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &client{t, c, bufio.NewReader(c)}
}

func (c *client) do(words ...string) string {
	c.t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(words))
	for _, w := range words {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(w), w)
	}
	if _, err := io.WriteString(c.c, b.String()); err != nil {
		c.t.Fatal(err)
	}
	return c.answer()
}

func (c *client) answer() string {
	line, err := c.r.ReadString('\n')
	if err != nil {
		c.t.Fatal(err)
	}
	n := 0
	fmt.Sscanf(line[1:], "%d", &n)
	switch line[0] {
	case '$':
		if n < 0 {
			return line
		}
		body := make([]byte, n+2)
		if _, err := io.ReadFull(c.r, body); err != nil {
			c.t.Fatal(err)
		}
		return line + string(body)
	case '%':
		n *= 2
		fallthrough
	case '*', '~', '>':
		for range n {
			line += c.answer()
		}
	}
	return line
}

// both are conversations that must go the same way with miniredis itself. "sha:" is
// the digest of the script that was loaded last.
var both = map[string][][]string{
	"values": {
		{"EVAL", "return 1", "0"},
		{"EVAL", "return -3.99", "0"},
		{"EVAL", "return 'text\\r\\n\\0'", "0"},
		{"EVAL", "return true", "0"},
		{"EVAL", "return false", "0"},
		{"EVAL", "return nil", "0"},
		{"EVAL", "local x = 1", "0"},
		{"EVAL", "return {}", "0"},
		{"EVAL", "return {1, 'a', {true, false, {}}, 2.5, nil, 'lost'}", "0"},
		{"EVAL", "return {ok = 'fine\\nline', 1}", "0"},
		{"EVAL", "return {err = 'CODE text'}", "0"},
		{"EVAL", "return {ok = 12}", "0"},
		{"EVAL", "return 1, 2", "0"},
	},
	"arguments": {
		{"EVAL", "return {KEYS[1], KEYS[2], ARGV[1], ARGV[2], #KEYS, #ARGV}", "2", "a", "b", "c", "d"},
		{"EVAL", "return {#KEYS, #ARGV}", "0"},
		{"EVAL", "return 1"},
		{"EVAL", "return 1", "x"},
		{"EVAL", "return 1", "-1"},
		{"EVAL", "return 1", "2", "a"},
		{"EVALSHA"},
		{"EVALSHA", "none", "0"},
		{"EVAL_RO", "return redis.call('GET', 'k')", "0"},
		{"EVAL_RO", "return redis.call('SET', 'k', 'v')", "0"},
	},
	"answers of commands": {
		{"EVAL", "return redis.call('SET', 'k', 'v')", "0"},
		{"EVAL", "return redis.call('SET', 'k', 'v').ok", "0"},
		{"EVAL", "return redis.call('GET', 'k')", "0"},
		{"EVAL", "return redis.call('GET', 'none')", "0"},
		{"EVAL", "return type(redis.call('GET', 'none'))", "0"},
		{"EVAL", "return redis.call('SET', 'k', 'w', 'XX', 'GET')", "0"},
		{"EVAL", "return redis.call('HSET', 'h', 'a', 1, 'b', 2.5, 'c', 1e15, 'd', -0.1)", "0"},
		{"EVAL", "return redis.call('HGETALL', 'h')", "0"},
		{"EVAL", "return redis.call('HMGET', 'h', 'a', 'none', 'b')", "0"},
		{"EVAL", "local v = redis.call('HMGET', 'h', 'a', 'none') return {type(v[1]), type(v[2]), #v}", "0"},
		{"EVAL", "return redis.call('XRANGE', 'none', '-', '+')", "0"},
		{"EVAL", "return redis.call('XADD', 's', '1-1', 'f', 'v')", "0"},
		{"EVAL", "return redis.call('XRANGE', 's', '-', '+')", "0"},
		{"EVAL", "return redis.call('XPENDING', 's', 'g', '-', '+', 1)", "0"},
		{"EVAL", "return redis.call('ZADD', 'z', 1, 'a', '2.5', 'b')", "0"},
		{"EVAL", "return redis.call('ZRANGE', 'z', 0, -1, 'WITHSCORES')", "0"},
		{"EVAL", "return redis.call('PING')", "0"},
		{"EVAL", "return redis.call('hget', 'h', 'a')", "0"},
		{"DBSIZE"},
	},
	"errors": {
		{"SET", "k", "v"},
		{"EVAL", "return redis.call('HGET', 'k', 'f')", "0"},
		{"EVAL", "return redis.pcall('HGET', 'k', 'f')", "0"},
		{"EVAL", "return redis.pcall('HGET', 'k', 'f').err", "0"},
		{"EVAL", "local ok, e = pcall(redis.call, 'HGET', 'k', 'f') return {ok and 1 or 0, e}", "0"},
		{"EVAL", "return redis.call('NONE', 'k')", "0"},
		{"EVAL", "return redis.pcall('NONE', 'k')", "0"},
		{"EVAL", "return redis.call()", "0"},
		{"EVAL", "return redis.call('GET', {})", "0"},
		{"EVAL", "return redis.call('GET', true)", "0"},
		{"EVAL", "return redis.call('GET')", "0"},
		{"EVAL", "error('mine')", "0"},
		{"EVAL", "local function f() local x = nil; return x.y end\nreturn f()", "0"},
		{"EVAL", "return 1 +", "0"},
		{"EVAL", "return pcall(function() z = 1 end)", "0"},
		{"EVAL", "redis.call('SET', 'k', 'half'); error('done')", "0"},
		{"GET", "k"},
		{"EVAL", "return redis.error_reply('CODE text')", "0"},
		{"EVAL", "return redis.error_reply('-CODE text')", "0"},
		{"EVAL", "return redis.error_reply('text')", "0"},
		{"EVAL", "return redis.error_reply(1)", "0"},
		{"EVAL", "return redis.status_reply('FINE')", "0"},
		{"EVAL", "return redis.status_reply({})", "0"},
		{"EVAL", "return redis.sha1hex('')", "0"},
		{"EVAL", "return redis.sha1hex()", "0"},
		{"EVAL", "return redis.call('EVAL', 'return 1', '0')", "0"},
		{"EVAL", "return redis.pcall('EVALSHA', 'x', '0')", "0"},
		{"EVAL", "return redis.call('SCRIPT', 'FLUSH')", "0"},
		{"EVAL", "return redis.call('MULTI')", "0"},
		{"EVAL", "return redis.call('SUBSCRIBE', 'c')", "0"},
	},
	"what is extraordinary": {
		{"EVAL", "return cjson.encode({1, 2})", "0"},
		{"EVAL", "return os.clock()", "0"},
		{"EVAL", "return server.call('PING')", "0"},
		{"EVAL", "redis.setresp(3) return redis.call('GET', 'none')", "0"},
		{"EVAL", "return redis.LOG_WARNING", "0"},
		{"EVAL", "return type(debug)", "0"},
		{"EVAL", "return rawget(_G, 'nothing')", "0"},
	},
	"digests": {
		{"SCRIPT", "LOAD", "return 'loaded'"},
		{"EVALSHA", "sha:", "0"},
		{"EVALSHA", "sha:", "1"},
		{"SCRIPT", "EXISTS", "sha:", "none", "sha:"},
		{"SCRIPT", "EXISTS"},
		{"SCRIPT", "LOAD", "return 1 +"},
		{"SCRIPT", "LOAD"},
		{"SCRIPT", "LOAD", "return cjson.encode({})"},
		{"SCRIPT", "EXISTS", "sha:"},
		{"EVALSHA", "sha:", "0"},
		{"SCRIPT", "FLUSH"},
		{"EVALSHA", "sha:", "0"},
		{"EVAL", "return 'loaded'", "0"},
		{"SCRIPT", "LOAD", "return 'loaded'"},
		{"EVALSHA", "sha:", "0"},
		{"SCRIPT", "NONE"},
	},
	"transactions": {
		{"SCRIPT", "LOAD", "return redis.call('INCR', 'n')"},
		{"EVALSHA", "sha:", "0"},
		{"MULTI"},
		{"EVALSHA", "sha:", "0"},
		{"EVAL", "return redis.call('EVAL', 'return 1', 0)", "0"},
		{"GET", "n"},
		{"EXEC"},
		{"EVALSHA", "sha:", "0"},
		{"MULTI"},
		{"EVALSHA", "sha:", "0"},
		{"DISCARD"},
		{"GET", "n"},
	},
	"databases": {
		{"EVAL", "redis.call('SELECT', 1) return redis.call('SET', 'k', 'in one')", "0"},
		{"EVAL", "return redis.call('GET', 'k')", "0"},
		{"EVAL", "return redis.call('SET', 'k', 'zero')", "0"},
		{"SELECT", "1"},
		{"EVAL", "return redis.call('SET', 'k', 'one')", "0"},
		{"EVAL", "return redis.call('DBSIZE')", "0"},
		{"SELECT", "0"},
		{"EVAL", "return redis.call('GET', 'k')", "0"},
		{"EVAL", "redis.call('SELECT', 1) return redis.call('GET', 'k')", "0"},
		{"GET", "k"},
	},
	"the third protocol": {
		{"EVAL", "return {1, false}", "0"},
		{"HELLO", "3"},
		{"EVAL", "return {1, false}", "0"},
		{"EVAL", "return redis.call('HGETALL', 'none')", "0"},
		{"EVAL", "redis.call('HELLO', 3) return redis.call('GET', 'none')", "0"},
		{"EVAL", "return redis.call('GET', 'none')", "0"},
	},
	"a subscription": {
		{"EVAL", "return 1", "0"},
		{"SUBSCRIBE", "c"},
		{"EVAL", "return 1", "0"},
	},
}

func TestAnswersLikeMiniredis(t *testing.T) {
	for name, talk := range both {
		t.Run(name, func(t *testing.T) {
			plain, quick := miniredis.NewMiniRedis(), quickredis.New()
			t.Cleanup(plain.Close)
			t.Cleanup(quick.Close)
			a, b, sha := dial(t, plain), dial(t, quick), ""
			for _, command := range talk {
				words := strings.Split(strings.ReplaceAll(strings.Join(command, "\x00"), "sha:", sha), "\x00")
				want, got := a.do(words...), b.do(words...)
				if want != got {
					t.Errorf("%q:\nminiredis  %q\nquickredis %q", words, want, got)
				}
				if len(words) == 3 && words[0] == "SCRIPT" && words[1] == "LOAD" && want[0] == '$' {
					sha = strings.Split(want, "\r\n")[1]
				}
			}
		})
	}
}

func TestPasswordComesFirst(t *testing.T) {
	r := quickredis.New()
	t.Cleanup(r.Close)
	r.RequireAuth("secret")
	c := dial(t, r)
	for _, command := range [][]string{
		{"EVAL", "return 1", "0"},
		{"SCRIPT", "LOAD", "return 1"},
		{"EVALSHA", "e0e1f9fabfc9d4800c877a703b823ac0578ff8db", "0"},
		{"SCRIPT", "EXISTS", "x"},
	} {
		if got := c.do(command...); !strings.HasPrefix(got, "-NOAUTH") {
			t.Errorf("%q without the password: %q", command, got)
		}
	}
	c.do("AUTH", "secret")
	if got := c.do("EVAL", "return redis.call('INCR', 'n')", "0"); got != ":1\r\n" {
		t.Errorf("with it: %q", got)
	}
}

// A name that was mistyped is not a global that comes into being.
func TestGlobalsAreRefused(t *testing.T) {
	r := quickredis.New()
	t.Cleanup(r.Close)
	c := dial(t, r)
	for script, want := range map[string]string{
		"local a = 1\nb = a": ":2: Script attempted to create global variable 'b'",
		"\n\nreturn b":       ":3: Script attempted to access nonexistent global variable 'b'",
	} {
		if got := c.do("EVAL", script, "0"); !strings.HasPrefix(got, "-ERR") || !strings.Contains(got, want) {
			t.Errorf("%q: %q", script, got)
		}
	}
}

// What a script leaves behind, the next does not find.
func TestScriptsStartClean(t *testing.T) {
	r := quickredis.New()
	t.Cleanup(r.Close)
	c := dial(t, r)
	for _, rude := range []string{
		"string = nil return 1", "redis = 1 return 1", "KEYS = 3 error('x')", "pairs = nil", "local function f() return f() + 1 end return f()",
	} {
		c.do("EVAL", rude, "0")
		if got := c.do("EVAL", "for i, k in pairs(KEYS) do redis.call('SET', k, string.rep('x', i)) end return #KEYS", "1", "k"); got != ":1\r\n" {
			t.Errorf("after %q: %q", rude, got)
		}
	}
}

// Nobody sees the middle of a script, and who waits is woken by it.
func TestScriptsAreAtomic(t *testing.T) {
	r := quickredis.New()
	t.Cleanup(r.Close)
	waiter := dial(t, r)
	var all sync.WaitGroup
	all.Go(func() {
		if got := waiter.do("BLPOP", "list", "20"); got != "*2\r\n$4\r\nlist\r\n$1\r\nx\r\n" {
			t.Errorf("the waiter got %q", got)
		}
	})
	const each = 200
	for range 4 {
		c := dial(t, r)
		all.Go(func() {
			for range each {
				c.do("EVAL", "local n = redis.call('GET', 'n') or 0; redis.call('SET', 'n', n + 1); redis.call('SET', 'm', n + 1)", "0")
				if got := c.do("EVAL", "return redis.call('GET', 'n') == redis.call('GET', 'm')", "0"); got != ":1\r\n" {
					t.Errorf("in the middle: %q", got)
				}
			}
		})
	}
	c := dial(t, r)
	c.do("EVAL", "return redis.call('RPUSH', 'list', 'x')", "0")
	all.Wait()
	if n, _ := r.Get("n"); n != fmt.Sprint(4*each) {
		t.Errorf("%s increments are left of %d", n, 4*each)
	}
}

func TestHookComesFirst(t *testing.T) {
	r := quickredis.New()
	t.Cleanup(r.Close)
	c := dial(t, r)
	var seen []string
	r.Hook(func(p *server.Peer, command string, _ ...string) bool {
		seen = append(seen, command)
		if command == "EVAL" {
			p.WriteError("LOADING")
			return true
		}
		return false
	})
	if got := c.do("EVAL", "return 1", "0"); got != "-LOADING\r\n" {
		t.Errorf("the hook's own answer: %q", got)
	}
	sha := strings.Split(c.do("SCRIPT", "LOAD", "return redis.call('INCR', 'n')"), "\r\n")[1]
	r.Hook(nil)
	c.do("EVALSHA", sha, "0")
	r.Hook(func(_ *server.Peer, command string, _ ...string) bool { seen = append(seen, command); return false })
	c.do("EVALSHA", sha, "0")
	if got := fmt.Sprint(seen); got != "[EVAL SCRIPT EVALSHA INCR]" {
		t.Errorf("the hook saw %v", got)
	}
}

func TestListensOnAPort(t *testing.T) {
	r := quickredis.New()
	if err := r.StartAddr("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	c, err := net.DialTimeout("tcp", r.Addr(), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := (&client{t, c, bufio.NewReader(c)}).do("EVAL", "return redis.call('INCR', 'n')", "0"); got != ":1\r\n" {
		t.Errorf("got %q", got)
	}
}

// One script, run by miniredis and by this package: how much is gained.
func BenchmarkScript(b *testing.B) {
	var script strings.Builder
	for i := range 60 { // as many declarations as those of a gateway have
		fmt.Fprintf(&script, "local function f%d(key, value) return redis.call('HSET', key, 'f', value) end\n", i)
	}
	script.WriteString("for i = 1, 10 do f1(KEYS[1], ARGV[1]) end return redis.call('HGETALL', KEYS[1])")
	for name, to := range map[string]interface {
		Dial() (net.Conn, error)
		Close()
	}{"miniredis": miniredis.NewMiniRedis(), "quickredis": quickredis.New()} {
		b.Run(name, func(b *testing.B) {
			defer to.Close()
			c := dial(b, to)
			sha := strings.Split(c.do("SCRIPT", "LOAD", script.String()), "\r\n")[1]
			for b.Loop() {
				c.do("EVALSHA", sha, "1", "k", "v")
			}
		})
	}
}
