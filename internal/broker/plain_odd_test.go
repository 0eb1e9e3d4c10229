package broker_test

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// Workers in any language write what they like, and so does whoever has redis-cli: what
// becomes of it is the same whether plain.go or settle.lua makes it out.
func TestOddRepliesAreAppliedAsOthers(t *testing.T) {
	for seed := range uint64(25) {
		stored := map[string][]string{}
		for way, choose := range map[string]func(*broker.Broker){"plain": func(*broker.Broker) {}, "general": broker.SettleGenerally} {
			synctest.Test(t, func(t *testing.T) { stored[way] = oddly(t, rand.New(rand.NewPCG(seed, 0)), choose) })
		}
		if d := cmp.Diff(stored["general"], stored["plain"]); d != "" {
			t.Fatalf("seed %d: settle.lua stores (-), succeed.lua (+):\n%s", seed, d)
		}
	}
}

// oddly is what is in Redis, and was told, once odd replies to odd requests are settled.
func oddly(t *testing.T, chance *rand.Rand, choose func(*broker.Broker)) []string {
	pick := func(all ...string) string { return all[chance.IntN(len(all))] }
	one := func(in int) bool { return chance.IntN(in) == 0 }
	upTo := func(most int) time.Duration { return time.Duration(chance.IntN(most+1)) * time.Millisecond }
	mini, dial := redistest.Pipe(t)
	defer mini.Close()
	gateway := func(name string) *broker.Broker {
		return open(t, &redistest.Redis{URL: "redis://pipe:1"}, func(o *broker.Options) {
			o.Dial, o.MaxReply, o.Name = dial, 6000, name
			o.Services["limited"] = broker.ServiceConfig{Concurrency: 100}
		})
	}
	b, other := gateway("gateway"), gateway("other")
	defer b.Close()
	defer other.Close()
	choose(b)
	var names []string
	for i := range 40 {
		s := broker.Submission{Tenant: pick(broker.DefaultTenant, "other"), Service: pick("echo", "limited"), ContentType: "text/plain", Body: []byte("body"), Minimal: one(20)}
		if one(4) {
			s.IdempotencyKey = fmt.Sprint("key ", i)
		}
		if one(4) {
			s.Tags = []string{"a"}
		}
		if one(3) {
			s.Callback = &broker.Callback{URL: "https://192.0.2.1/hook", Events: []string{pick("succeeded", "failed")}}
		}
		for _, clock := range []*time.Duration{&s.StartTimeout, &s.RunTimeout, &s.Timeout} {
			if one(5) {
				*clock = 15*time.Millisecond + upTo(30)
			}
		}
		r, _, err := b.Submit(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		for _, g := range []*broker.Broker{b, other} {
			if one(3) {
				if _, err := g.Attach(t.Context(), r.ID); err != nil {
					t.Fatal(err)
				}
			}
		}
		names = append(names, r.ID.String(), fmt.Sprintf("<%s %d>", s.Service, i))
	}
	time.Sleep(10 * time.Millisecond)
	held := map[string]broker.Delivery{}
	for range 30 {
		got, err := b.Claim(t.Context(), pick("w", "w\n", "\xff", "pull:x"), []string{pick("echo", "limited")}, 1+chance.IntN(6), time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range got {
			held[d.ID] = d
		}
		time.Sleep(upTo(2))
	}
	c := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", Dialer: dial})
	defer c.Close()
	for i := 0; i < len(names); i += 2 {
		d := held[names[i]]
		for more := d.ID != ""; more; more = one(6) {
			if err := c.XAdd(t.Context(), &redis.XAddArgs{Stream: d.ReplyTo, Values: oddReply(d, pick, one)}).Err(); err != nil {
				t.Fatal(err)
			}
		}
		if d.ID != "" && one(20) {
			c.XAck(t.Context(), "cc:{0}:queue:"+d.Service, "workers", d.Entry)
		}
		time.Sleep(upTo(1))
	}
	time.Sleep(10 * time.Millisecond)
	var facts []broker.Fact
	for more := true; more; {
		some, left, err := b.Settle(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		facts, more = append(facts, some...), left
	}
	entries := regexp.MustCompile(`(:callbacks \S+) [\d-]+map`) // succeed.lua has an order of its own
	lines := strings.Split(entries.ReplaceAllString(everything(t, dial, names, facts), "$1 map"), "\n")
	slices.Sort(lines)
	return lines
}

// oddReply is mostly one that somebody may send.
func oddReply(d broker.Delivery, pick func(...string) string, one func(int) bool) []any {
	token, x := d.Token, strings.Repeat
	if one(10) {
		token = pick("", "x", token+"0", strings.Replace(token, ".1.", ".2.", 1), d.ID, d.ID+".1.", d.ID+"/1"+token[len(d.ID):])
	}
	v := []any{"token", token, "type", pick("final", "final", "final", "final", "final", "final", "failed", "progress", "Final", "")}
	for _, field := range []struct {
		name  string
		in    int
		value string
	}{
		{"content_type", 1, pick("text/plain", "text/plain", "", "a\nb", "\xff", "a\x7f", "é\u0085", x("y", 255), x("y", 256))},
		{"body", 1, x("b", edge(pick))},
		{"status_code", 3, pick("", "200", "404", "200.0", "2e2", "199", "599", "600", "099", "2000", " 200", "0x1", "x")},
		{"headers", 3, pick("", "{}", `{"a":"b"}`, "{\n}", "{\r}", "a\x00b", x("h", 8192), x("h", 8193))},
		{"seq", 5, pick("1", "1", "1.0", "01", "0", "2", "", "x")},
		{pick("foo", "", "cache_ttl", "error", "body", "token"), 15, pick("", "1", "x")},
	} {
		if one(field.in) {
			v = append(v, field.name, field.value)
		}
	}
	return v
}

// edge is a size at an edge.
func edge(pick func(...string) string) (n int) {
	fmt.Sscan(pick("0", "1", "64", "65", "2048", "2049", "4096", "4097", "6000", "6001"), &n)
	return n
}
