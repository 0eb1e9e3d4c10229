package broker_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// protocol is what this test reads of asyncapi.yaml.
type protocol struct {
	document   any // the whole of it, for its schemas
	Channels   map[string]channel
	Operations map[string]struct {
		Action  string
		Channel struct {
			Ref string `json:"$ref"`
		}
	}
	Components struct {
		Messages map[string]struct {
			Examples []struct{ Payload any }
		}
		Schemas map[string]struct {
			Required   []string
			Properties map[string]struct {
				Enum  []string
				Const string
			}
		}
	}
}

type channel struct {
	Address string
	Redis   struct {
		Type, Read, Write, Create string
	} `json:"x-redis"`
}

func readProtocol(t *testing.T) (p protocol) {
	t.Helper()
	if err := yaml.Unmarshal(api.WorkerProtocol, &p.document); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(p.document)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &p); err != nil {
		t.Fatal(err)
	}
	p.document, err = jsonschema.UnmarshalJSON(strings.NewReader(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// fields are those of a schema.
func (p protocol) fields(t *testing.T, schema string) []string {
	t.Helper()
	s, there := p.Components.Schemas[schema]
	if !there {
		t.Fatalf("asyncapi.yaml has no schema %s", schema)
	}
	return slices.Sorted(maps.Keys(s.Properties))
}

// fits holds a message to its schema.
func (p protocol) fits(t *testing.T, message string, payload any) {
	t.Helper()
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("asyncapi.yaml", p.document); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("asyncapi.yaml#/components/messages/" + message + "/payload")
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(payload)
	if err != nil {
		t.Fatal(err)
	}
	instance, err := jsonschema.UnmarshalJSON(strings.NewReader(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	if err := schema.Validate(instance); err != nil {
		t.Errorf("%s does not fit: %v", message, err)
	}
}

func same(t *testing.T, what string, documented, real []string) {
	t.Helper()
	slices.Sort(documented)
	slices.Sort(real)
	if diff := cmp.Diff(documented, real); diff != "" {
		t.Errorf("%s: asyncapi.yaml (-) and Redis (+) differ:\n%s", what, diff)
	}
}

func full(s *broker.Submission) {
	s.Traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	s.Headers = map[string]string{"accept": "text/plain"}
}

// example is what the document shows of a message.
func (p protocol) example(t *testing.T, message string) map[string]any {
	t.Helper()
	examples := p.Components.Messages[message].Examples
	if len(examples) != 1 {
		t.Fatalf("message %s has %d examples, want 1", message, len(examples))
	}
	fields, ok := examples[0].Payload.(map[string]any)
	if !ok {
		t.Fatalf("the example of %s has no fields", message)
	}
	return fields
}

// A work entry has the fields of the document and no others, however it comes
// onto the stream; and each is read by who claims.
func TestProtocolOfRequests(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		p, b := readProtocol(t), open(t, redis)
		stream := strings.NewReplacer("{partition}", "{0}", "{service}", "echo").Replace(p.Channels["requests"].Address)
		check := func(how string) {
			t.Helper()
			entries := redis.Client.XRange(t.Context(), stream, "-", "+").Val()
			if len(entries) != 1 {
				t.Fatalf("%s: %d entries on %s", how, len(entries), stream)
			}
			same(t, how, p.fields(t, "Request"), slices.Collect(maps.Keys(entries[0].Values)))
			same(t, "required, "+how, p.Components.Schemas["Request"].Required, slices.Collect(maps.Keys(entries[0].Values)))
			p.fits(t, "request", entries[0].Values)
		}
		bare := submit(t, b, "")
		check("submitted")
		if _, err := b.Cancel(t.Context(), bare.ID); err != nil {
			t.Fatal(err)
		}
		r := submit(t, b, "body", full)
		check("submitted with everything")
		send(t, b, claim(t, b), broker.WorkerReply{Type: "retry", Delay: time.Millisecond})
		settle(t, b)
		check("retried at once")
		send(t, b, claim(t, b), broker.WorkerReply{Type: "retry", Delay: 5 * time.Millisecond})
		settle(t, b)
		await(t, b, r.ID, broker.Queued)
		check("released after a while")
		if _, err := b.Cancel(t.Context(), r.ID); err != nil {
			t.Fatal(err)
		}

		add := xadd(stream)
		add.Values = p.example(t, "request")
		if err := redis.Client.XAdd(t.Context(), add).Err(); err != nil {
			t.Fatal(err)
		}
		for v, i := reflect.ValueOf(claim(t, b)), 0; i < v.NumField(); i++ {
			if v.Field(i).IsZero() {
				t.Errorf("%s of a delivery is not in the example of the document", v.Type().Field(i).Name)
			}
		}
	})
}

// A reply may have the fields of the document: they are what the Go worker
// writes, what settle.lua reads, and each type is taken.
func TestProtocolOfReplies(t *testing.T) {
	p := readProtocol(t)
	documented := p.fields(t, "Reply")
	types := p.Components.Schemas["Reply"].Properties["type"].Enum
	script, err := os.ReadFile("lua/settle.lua")
	if err != nil {
		t.Fatal(err)
	}
	used := func(pattern string) (names []string) {
		for _, found := range regexp.MustCompile(pattern).FindAllStringSubmatch(string(script), -1) {
			if !slices.Contains(names, found[1]) {
				names = append(names, found[1])
			}
		}
		return names
	}
	same(t, "fields that settle.lua reads", slices.Clone(documented), used(`\bf\.(\w+)`))
	same(t, "types that settle.lua knows", slices.Clone(types), used(`\bkind [=~]= '(\w+)'`))

	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		replies := func(d broker.Delivery) map[string]any {
			t.Helper()
			entries := redis.Client.XRange(t.Context(), d.ReplyTo, "-", "+").Val()
			if len(entries) != 1 {
				t.Fatalf("%d replies on %s", len(entries), d.ReplyTo)
			}
			return entries[0].Values
		}
		for _, kind := range types {
			submit(t, b, "x")
			d := claim(t, b)
			send(t, b, d, broker.WorkerReply{
				Type: kind, ContentType: "text/plain", Body: []byte("x"), StatusCode: 200, Headers: map[string]string{"x-page": "2"},
				Seq: 1, Delay: time.Second, CacheTTL: time.Minute, Error: &broker.Error{Code: "code", Message: "message"},
			})
			same(t, "fields that a worker in Go writes", slices.Clone(documented), slices.Collect(maps.Keys(replies(d))))
			p.fits(t, kind, replies(d))
			settle(t, b)

			r := submit(t, b, "x")
			d = claim(t, b)
			add := xadd(d.ReplyTo)
			example := p.example(t, kind)
			p.fits(t, kind, example)
			example["token"] = d.Token
			add.Values = example
			if err := redis.Client.XAdd(t.Context(), add).Err(); err != nil {
				t.Fatal(err)
			}
			want := map[string]string{"progress": "event", "partial": "event", "final": "outcome", "failed": "outcome"}[kind]
			if want == "" {
				want = kind
			}
			if got := settle(t, b); !slices.Contains(got, want) {
				t.Errorf("the example of %s is taken as %v, want %s", kind, got, want)
			}
			if s := status(t, b, r.ID); !slices.Contains([]broker.Status{broker.Succeeded, broker.Failed}, s.Status) {
				if _, err := b.Cancel(t.Context(), r.ID); err != nil {
					t.Fatal(err)
				}
			}
			redis.Client.Del(t.Context(), "cc:{0}:queue:echo")
			if err := b.Announce(t.Context(), map[string]broker.Announcement{"echo": {}}); err != nil {
				t.Fatal(err)
			}
		}
		submit(t, b, "x")
		d := claim(t, b)
		send(t, b, d, broker.WorkerReply{Type: "done"})
		if got := settle(t, b); !slices.Contains(got, "garbage") {
			t.Errorf("a type that is not documented is taken as %v", got)
		}
	})
}

// The other keys and channels of the document are those that are there.
func TestProtocolOfTheRest(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		p, b := readProtocol(t), open(t, redis, asWorker("me"))
		ctx := t.Context()
		heard := redis.Client.PSubscribe(ctx, "cc:cancel:*", "cc:drain:*")
		defer heard.Close()
		for range 2 {
			if _, err := heard.Receive(ctx); err != nil {
				t.Fatal(err)
			}
		}
		config := redis.Client.HGetAll(ctx, p.Channels["config"].Address).Val()
		same(t, "cc:config", p.fields(t, "Config"), slices.Collect(maps.Keys(config)))
		p.fits(t, "config", config)

		if err := b.Announce(ctx, map[string]broker.Announcement{"echo": {Lease: time.Minute}}); err != nil {
			t.Fatal(err)
		}
		said := broker.Description{Description: "x", Request: json.RawMessage(`{}`), Reply: json.RawMessage(`{}`)}
		enlist(t, b, broker.Enlistment{Version: "1", Slots: 1, Services: map[string]broker.Description{"echo": said}, First: true})
		for channel, schema := range map[string]string{"services": "Service", "descriptions": "Description"} {
			var value map[string]any
			if err := json.Unmarshal([]byte(redis.Client.HGet(ctx, p.Channels[channel].Address, "echo").Val()), &value); err != nil {
				t.Fatal(err)
			}
			same(t, channel, p.fields(t, schema), slices.Collect(maps.Keys(value)))
			p.fits(t, strings.ToLower(schema), value)
			p.fits(t, strings.ToLower(schema), p.example(t, strings.ToLower(schema)))
		}
		announced := redis.Client.XRange(ctx, p.Channels["workers"].Address, "-", "+").Val()[0].Values
		same(t, "cc:workers", p.fields(t, "Worker"), slices.Collect(maps.Keys(announced)))
		p.fits(t, "worker", announced)
		p.fits(t, "worker", p.example(t, "worker"))

		next := func() string {
			t.Helper()
			m, err := heard.ReceiveMessage(ctx)
			if err != nil {
				t.Fatal(err)
			}
			return m.Channel + " " + m.Payload
		}
		r := submit(t, b, "x")
		claim(t, b)
		if _, err := b.Cancel(ctx, r.ID); err != nil {
			t.Fatal(err)
		}
		if got, want := next(), strings.Replace(p.Channels["cancel"].Address, "{service}", "echo", 1)+" "+r.ID.String(); got != want {
			t.Errorf("%s, want %s", got, want)
		}
		if _, err := b.Drain(ctx, "me"); err != nil {
			t.Fatal(err)
		}
		if got, want := next(), strings.Replace(p.Channels["drain"].Address, "{worker}", "me", 1)+" drain"; got != want {
			t.Errorf("%s, want %s", got, want)
		}
		p.fits(t, "draining", redis.Client.HGet(ctx, p.Channels["draining"].Address, "me").Val())
	})
}

// Every channel has an operation, and every reference leads somewhere.
func TestProtocolHangsTogether(t *testing.T) {
	p := readProtocol(t)
	of := map[string]string{"replies": "claim"} // as its reply
	for name, o := range p.Operations {
		of[strings.TrimPrefix(o.Channel.Ref, "#/channels/")] = name
	}
	for name, c := range p.Channels {
		if of[name] == "" || c.Redis.Type == "" {
			t.Errorf("channel %s has the operation %q and the type %q", name, of[name], c.Redis.Type)
		}
	}
	for _, found := range regexp.MustCompile(`\$ref: "#/([^"]+)"`).FindAllStringSubmatch(string(api.WorkerProtocol), -1) {
		at := p.document
		for step := range strings.SplitSeq(found[1], "/") {
			node, ok := at.(map[string]any)
			if at = node[step]; !ok || at == nil {
				t.Errorf("$ref %s leads nowhere", found[1])
				break
			}
		}
	}
	if version := p.document.(map[string]any)["info"].(map[string]any)["version"]; !slices.Contains(p.Components.Schemas["Config"].Properties["protocol"].Enum, fmt.Sprint(version)) {
		t.Errorf("version %v", version)
	}
}
