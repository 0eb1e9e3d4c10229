package broker

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/coatcheck/coatcheck/api"
)

const (
	// AnnounceEvery is how often a worker says that it is alive; two lost ones
	// are forgiven.
	AnnounceEvery = 5 * time.Second
	aliveFor      = 15 * time.Second
	// maxAnnounced bounds the stream of announcements where no gateway trims it.
	maxAnnounced = 10_000
	// MaxDescription, MaxSchema and MaxVersion bound what a worker says, in bytes.
	MaxDescription = 4 << 10
	MaxSchema      = 64 << 10
	MaxVersion     = 64
	maxWorkerName  = 128
)

var enlistScript = newPlainScript("enlist")

// Enlistment is what a worker says of itself; its name is the broker's.
type Enlistment struct {
	Version  string // "" for none
	Slots    int    // requests at once
	Services map[string]Description
	Draining bool // it claims no more
	First    bool // the process is new: what an earlier one of its name was told is over
}

// Description is what a service's workers say of it, as JSON in Redis.
type Description struct {
	Description string          `json:"description,omitempty"`
	Request     json.RawMessage `json:"request,omitempty"` // JSON schema of request bodies
	Reply       json.RawMessage `json:"reply,omitempty"`   // JSON schema of replies
}

func (d Description) none() bool { return d.Description == "" && d.Request == nil && d.Reply == nil }

// Enlist says that this worker is alive, as every AnnounceEvery it must to be
// known for it, and puts the descriptions of its services where they are not.
// drain tells that it was told to drain.
func (b *Broker) Enlist(ctx context.Context, e Enlistment) (drain bool, err error) {
	names, state := make([]string, 0, len(e.Services)), "running"
	for name := range e.Services {
		names = append(names, name)
	}
	slices.Sort(names)
	if e.Draining {
		state = "draining"
	}
	err = b.announceWorker(ctx, "name", b.name, "version", e.Version, "slots", e.Slots,
		"services", strings.Join(names, " "), "state", state, "obeys_drain", "1")
	if err != nil {
		return false, err
	}
	pipe := b.redis.commands.Pipeline()
	if e.First {
		pipe.HDel(ctx, drainingKey, b.name)
	}
	told := pipe.HExists(ctx, drainingKey, b.name)
	there := make([]*redis.BoolCmd, len(names))
	for i, name := range names {
		there[i] = pipe.HExists(ctx, descriptionsKey, name)
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return false, fault("look whether a worker is to drain", err)
	}
	for i, name := range names {
		d := e.Services[name]
		if d.none() || there[i].Val() && !e.First {
			continue
		}
		text, err := json.Marshal(d)
		if err != nil {
			return told.Val(), errors.Join(errors.New("describe a service"), err)
		}
		if err := b.redis.commands.HSet(ctx, descriptionsKey, name, text).Err(); err != nil {
			return told.Val(), fault("describe a service", err)
		}
	}
	return told.Val(), nil
}

// Delist says that this worker ends.
func (b *Broker) Delist(ctx context.Context) error {
	if err := b.announceWorker(ctx, "name", b.name, "state", "gone"); err != nil {
		return err
	}
	return fault("take a worker off the list", b.redis.commands.HDel(ctx, drainingKey, b.name).Err())
}

func (b *Broker) announceWorker(ctx context.Context, fields ...any) error {
	_, err := enlistScript.run(ctx, b.redis, partition{}, []string{workersKey}, append([]any{maxAnnounced}, fields...)...)
	return fault("announce a worker", err)
}

// Describe reads what the workers of a service say of it; the zero Description
// where they say nothing. What is no JSON of bounded size is left out: anybody
// may have written it.
func (b *Broker) Describe(ctx context.Context, service string) (Description, error) {
	text, err := b.redis.commands.HGet(ctx, descriptionsKey, service).Result()
	if errors.Is(err, redis.Nil) {
		return Description{}, nil
	}
	if err != nil {
		return Description{}, fault("read the description of a service", err)
	}
	var d Description
	if json.Unmarshal([]byte(text), &d) != nil {
		return Description{}, nil
	}
	d.Description = validText(d.Description[:min(len(d.Description), MaxDescription)])
	for _, schema := range []*json.RawMessage{&d.Request, &d.Reply} {
		if CheckSchema(*schema) != nil {
			*schema = nil
		}
	}
	return d, nil
}

// CheckSchema tells whether a text can be a JSON schema: an object or a boolean,
// of a bounded size.
func CheckSchema(schema []byte) error {
	if len(schema) > MaxSchema {
		return errors.New("it has " + strconv.Itoa(len(schema)) + " bytes, more than " + strconv.Itoa(MaxSchema))
	}
	var v any
	if err := json.Unmarshal(schema, &v); err != nil {
		return errors.New("it is no JSON: " + err.Error())
	}
	switch v.(type) {
	case map[string]any, bool:
		return nil
	}
	return errors.New("it is neither an object nor a boolean")
}

// enlisted reads an announcement; anybody may have written it.
func enlisted(entry redis.XMessage) (w Worker, gone, ok bool) {
	text := func(name string) string { s, _ := entry.Values[name].(string); return s }
	w = Worker{
		Name: text("name"), Version: validText(text("version")), Seen: entryTime(entry.ID), Announced: true,
		Slots: int(min(max(number(text("slots")), 1), maxAnnounced)), Draining: text("state") == "draining", Obeys: text("obeys_drain") == "1",
	}
	w.Version = w.Version[:min(len(w.Version), MaxVersion)]
	for service := range strings.FieldsSeq(text("services")) {
		if api.ValidService(service) && !slices.Contains(w.Services, service) {
			w.Services = append(w.Services, service)
		}
	}
	return w, text("state") == "gone", validWorker(w.Name)
}

// validWorker tells whether a worker may be called so: its name is shown, and
// is part of a URL.
func validWorker(name string) bool {
	return name != "" && len(name) <= maxWorkerName && !strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '�' })
}
