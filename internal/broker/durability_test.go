package broker_test

import (
	"bytes"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

func durably(mode broker.Mode, replicas int) func(*broker.Options) {
	return func(o *broker.Options) { o.Durability = broker.Durability{Mode: mode, Replicas: replicas} }
}

var (
	everysec = []string{"--appendonly", "yes", "--appendfsync", "everysec"}
	always   = []string{"--appendonly", "yes", "--appendfsync", "always"}
)

// A gateway starts on a server that does what is demanded, and on no other. It says
// what is set, what that means and what to type.
func TestDurabilityAtTheStart(t *testing.T) {
	for name, test := range map[string]struct {
		mode   broker.Mode
		server []string
		kept   string   // how; "": it does not start
		says   []string // and says so
	}{
		"memory":                  {broker.Memory, nil, "memory", nil},
		"memory is given more":    {broker.Memory, always, "memory", nil},
		"local":                   {broker.Local, everysec, "local", nil},
		"local is given more":     {broker.Local, always, "local", nil},
		"fsync":                   {broker.Fsync, always, "fsync", nil},
		"as it is":                {broker.Auto, nil, "memory (as Redis is set; not configured)", []string{"CONFIG SET appendonly yes"}},
		"as it is, everysec":      {broker.Auto, everysec, "local (as Redis is set; not configured)", nil},
		"as it is, always":        {broker.Auto, always, "fsync (as Redis is set; not configured)", nil},
		"as it is, kernel's time": {broker.Auto, []string{"--appendonly", "yes", "--appendfsync", "no"}, "memory (as Redis is set; not configured)", nil},
		"local without a file":    {broker.Local, nil, "", []string{"durability local", "appendonly of Redis is no", "CONFIG SET appendonly yes", "CONFIG REWRITE", "durability: memory"}},
		"fsync without a file":    {broker.Fsync, nil, "", []string{"durability fsync", "CONFIG SET appendonly yes"}},
		"local, kernel's time":    {broker.Local, []string{"--appendonly", "yes", "--appendfsync", "no"}, "", []string{"appendfsync of Redis is no", "CONFIG SET appendfsync everysec"}},
		"fsync, kernel's time":    {broker.Fsync, []string{"--appendonly", "yes", "--appendfsync", "no"}, "", []string{"appendfsync of Redis is no", "CONFIG SET appendfsync always"}},
		"fsync, everysec":         {broker.Fsync, everysec, "", []string{"appendfsync of Redis is everysec", "two seconds", "CONFIG SET appendfsync always", "durability: local"}},
		"fsync but in rewrites":   {broker.Fsync, append(always, "--no-appendfsync-on-rewrite", "yes"), "", []string{"CONFIG SET no-appendfsync-on-rewrite no"}},
		"local but in rewrites":   {broker.Local, append(everysec, "--no-appendfsync-on-rewrite", "yes"), "", []string{"CONFIG SET no-appendfsync-on-rewrite no"}},
		"evicts, memory":          {broker.Memory, []string{"--maxmemory-policy", "allkeys-lru"}, "", []string{"maxmemory-policy of Redis is allkeys-lru", "CONFIG SET maxmemory-policy noeviction"}},
		"evicts, asked nothing":   {broker.Unpromised, []string{"--maxmemory-policy", "allkeys-lru"}, "", []string{"maxmemory-policy of Redis is allkeys-lru"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var log bytes.Buffer
			b, err := broker.Open(t.Context(), broker.Options{
				URL: redistest.Start(t, test.server...).URL, Logger: slog.New(slog.NewTextHandler(&log, nil)), Durability: broker.Durability{Mode: test.mode},
			})
			said := log.String()
			if err == nil {
				defer b.Close()
				if got := b.Kept().String(); got != test.kept {
					t.Errorf("kept %q, want %q", got, test.kept)
				}
			} else {
				said = err.Error()
				if test.kept != "" || !errors.Is(err, broker.ErrUndurable) || errors.Is(err, broker.ErrUnavailable) {
					t.Errorf("%v", err)
				}
			}
			for _, part := range test.says {
				if !strings.Contains(said, part) {
					t.Errorf("it says %q, without %q", said, part)
				}
			}
		})
	}
}

// The embedded Redis keeps nothing, and says nothing of it.
func TestDurabilityOfTheEmbedded(t *testing.T) {
	r := redistest.Embedded(t)
	for _, mode := range []broker.Mode{broker.Memory, broker.Auto} {
		if b := open(t, r, durably(mode, 0)); b.Admits() != nil || b.Kept().Mode != broker.Memory {
			t.Errorf("%s: %v, %v", mode, b.Kept(), b.Admits())
		}
	}
	if _, err := broker.Open(t.Context(), broker.Options{URL: r.URL, Durability: broker.Durability{Mode: broker.Local}, Logger: slog.New(slog.DiscardHandler)}); !errors.Is(err, broker.ErrUndurable) {
		t.Errorf("local: %v", err)
	}
}

// Where Redis does not let its settings be read, the operator's word counts; never
// against what can be read.
func TestDurabilityAsserted(t *testing.T) {
	t.Run("forbidden by an ACL", func(t *testing.T) {
		redis := redistest.Start(t, append(everysec, "--user", "gateway", "on", ">s3cret", "~*", "&*", "+@all", "-config")...)
		asserted(t, strings.Replace(redis.URL, "redis://", "redis://gateway:s3cret@", 1))
	})
	t.Run("renamed", func(t *testing.T) {
		asserted(t, redistest.Start(t, append(everysec, "--rename-command", "CONFIG", "")...).URL)
	})
	t.Run("can be read, and is other", func(t *testing.T) {
		_, err := broker.Open(t.Context(), broker.Options{
			URL: redistest.Start(t, everysec...).URL, Logger: slog.New(slog.DiscardHandler), Durability: broker.Durability{Mode: broker.Fsync, Asserted: true},
		})
		if !errors.Is(err, broker.ErrUndurable) {
			t.Errorf("%v", err)
		}
	})
}

func asserted(t *testing.T, url string) {
	t.Helper()
	var log bytes.Buffer
	o := broker.Options{URL: url, Logger: slog.New(slog.NewTextHandler(&log, nil)), Durability: broker.Durability{Mode: broker.Fsync}}
	_, err := broker.Open(t.Context(), o)
	if !errors.Is(err, broker.ErrUndurable) || !strings.Contains(err.Error(), "durability_asserted: true") || !strings.Contains(err.Error(), "+config|get") {
		t.Errorf("without the operator's word: %v", err)
	}
	o.Durability.Asserted = true
	b, err := broker.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if k := b.Kept(); !k.Asserted || k.Mode != broker.Fsync || !strings.Contains(k.String(), "asserted") || !strings.Contains(log.String(), "is believed") {
		t.Errorf("%v; the log says %s", k, log.String())
	}
	o.Durability.Mode = broker.Auto
	if as, err := broker.Open(t.Context(), o); err != nil || as.Kept().Mode != broker.Memory {
		t.Errorf("as it is: %v", err)
	} else {
		as.Close()
	}
}

// What changes while it runs has new requests refused, and nothing else; it heals by
// itself.
func TestDurabilityWhileRunning(t *testing.T) {
	redis := redistest.Start(t, always...)
	b := open(t, redis, durably(broker.Fsync, 0))
	r := submit(t, b, "before")
	redis.Client.BgRewriteAOF(t.Context()) // so that it has one file already
	for strings.Contains(redis.Client.Info(t.Context(), "persistence").Val(), "aof_base_size:0\r") && t.Context().Err() == nil {
		<-time.After(10 * time.Millisecond)
	}
	set := func(name, value string) {
		t.Helper()
		if err := redis.Client.ConfigSet(t.Context(), name, value).Err(); err != nil {
			t.Fatal(err)
		}
	}
	for _, change := range [][3]string{
		{"appendfsync", "everysec", "always"},
		{"maxmemory-policy", "volatile-lru", "noeviction"},
		{"no-appendfsync-on-rewrite", "yes", "no"},
		{"appendonly", "no", "yes"}, // with a new file, see below
	} {
		set(change[0], change[1])
		if err := broker.Inspect(t.Context(), b); !errors.Is(err, broker.ErrUndurable) || !strings.Contains(err.Error(), change[0]) {
			t.Errorf("%v: %v", change, err)
		}
		if err := b.Admits(); !errors.Is(err, broker.ErrUndurable) || b.Ready() != nil {
			t.Errorf("%v: %v, %v", change, err, b.Ready())
		}
		if _, _, err := b.Submit(t.Context(), broker.Submission{Service: "echo"}); !errors.Is(err, broker.ErrUndurable) {
			t.Errorf("%v: submit: %v", change, err)
		}
		if _, err := b.OpenBatch(t.Context(), broker.DefaultTenant, "", nil, 1, nil); !errors.Is(err, broker.ErrUndurable) {
			t.Errorf("%v: a batch: %v", change, err)
		}
		if got := status(t, b, r.ID); got.Status != broker.Queued {
			t.Errorf("%v: it is %s", change, got.Status)
		}
		if change[0] == "appendonly" {
			set("rdb-key-save-delay", "20000") // in µs: its file takes a while
		}
		set(change[0], change[2])
		if err := broker.Inspect(t.Context(), b); change[0] == "appendonly" {
			written(t, err, func() error { return broker.Inspect(t.Context(), b) })
		} else if err != nil {
			t.Errorf("%v, mended: %v", change, err)
		}
		submit(t, b, "after")
	}
}

// written waits until the file is.
func written(t *testing.T, err error, look func() error) {
	t.Helper()
	if err == nil {
		t.Error("a file that is just being written counts")
	}
	for tries := 0; err != nil; tries++ {
		if !errors.Is(err, broker.ErrUndurable) || !errors.Is(err, broker.ErrUnavailable) || !strings.Contains(err.Error(), "still writing its first") || tries > 1000 {
			t.Fatal(err)
		}
		<-time.After(10 * time.Millisecond) // the file takes its time
		err = look()
	}
}

// An append-only file that was just switched on holds nothing until it is written as
// a whole.
func TestDurabilityOfANewFile(t *testing.T) {
	redis := redistest.Start(t)
	for n := range 20 {
		redis.Client.Set(t.Context(), strconv.Itoa(n), "x", 0)
	}
	redis.Client.ConfigSet(t.Context(), "rdb-key-save-delay", "20000")
	if err := redis.Client.ConfigSet(t.Context(), "appendonly", "yes").Err(); err != nil {
		t.Fatal(err)
	}
	start := func() error {
		b, err := broker.Open(t.Context(), broker.Options{URL: redis.URL, Logger: slog.New(slog.DiscardHandler), Durability: broker.Durability{Mode: broker.Local}})
		if err == nil {
			b.Close()
		}
		return err
	}
	written(t, start(), start)
}

// A file that is rewritten for the first time is there all the while.
func TestDurabilityOfARewrittenFile(t *testing.T) {
	redis := redistest.Start(t, "--appendonly", "yes")
	b := open(t, redis, func(o *broker.Options) { o.Durability.Mode = broker.Local })
	for n := range 20 {
		redis.Client.Set(t.Context(), strconv.Itoa(n), "x", 0)
	}
	redis.Client.ConfigSet(t.Context(), "rdb-key-save-delay", "20000") // in µs: to write it takes a while
	if err := redis.Client.BgRewriteAOF(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	if err := broker.Inspect(t.Context(), b); err != nil {
		t.Error(err)
	}
	if info := redis.Client.Info(t.Context(), "persistence").Val(); !strings.Contains(info, "aof_rewrite_in_progress:1") {
		t.Error("it was written before it was looked at")
	}
}

// A server that comes back with other settings is found out before anybody is told
// of something that it took: its connections are new.
func TestRestartedServerIsLookedAt(t *testing.T) {
	redis := redistest.Start(t, everysec...)
	if err := redis.Client.ConfigSet(t.Context(), "appendfsync", "always").Err(); err != nil { // and no CONFIG REWRITE
		t.Fatal(err)
	}
	b := open(t, redis, durably(broker.Fsync, 0))
	submit(t, b, "before")
	redis.Kill()
	redis.Restart(t)
	for range 3 { // the first may find its old connection
		_, _, err := b.Submit(t.Context(), broker.Submission{Service: "echo", Body: []byte("x")})
		if err == nil {
			t.Fatal("it accepts on a server that syncs once a second")
		}
	}
	if err := b.Admits(); !errors.Is(err, broker.ErrUndurable) || !strings.Contains(err.Error(), "everysec") {
		t.Errorf("%v", err)
	}
}
