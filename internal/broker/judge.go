package broker

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"
)

// Judge sees the final replies of some services before they are settled.
type Judge struct {
	Services []string // "*" for all; none: nothing is judged
	// Reply judges one reply within a few seconds: the replies of its partition
	// wait. It is called concurrently, and again where a steward died meanwhile.
	Reply func(ctx context.Context, r FinalReply) Verdict
}

// FinalReply is a reply as its worker sent it.
type FinalReply struct {
	ID, Service string
	Reply
}

// Verdict is what becomes of a final reply. The zero value lets it pass.
type Verdict struct {
	Fail   *Error // the request fails with this
	Change *Reply // this is settled in its place
}

// wants tells whether the final replies of a service are judged.
func (j Judge) wants(service string) bool {
	return slices.Contains(j.Services, service) || slices.Contains(j.Services, "*")
}

// among lists the services as settle.lua looks for them.
func (j Judge) among() string {
	if len(j.Services) == 0 {
		return ""
	}
	return " " + strings.Join(j.Services, " ") + " "
}

// judge fetches replies and returns what settle.lua takes as their verdicts.
func (b *Broker) judge(ctx context.Context, p partition, asked []string) ([]any, error) {
	entries, services := make([]string, len(asked)), make([]string, len(asked))
	for i, a := range asked {
		entries[i], services[i], _ = strings.Cut(a, " ")
	}
	found := make([]*redis.XMessageSliceCmd, len(entries))
	_, err := b.redis.commands.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i, entry := range entries {
			found[i] = pipe.XRange(ctx, p.replies(), entry, entry)
		}
		return nil
	})
	if err != nil {
		return nil, fault("fetch replies to judge them", err)
	}
	verdicts := make([]Verdict, len(entries))
	var all sync.WaitGroup
	for i, f := range found {
		all.Go(func() {
			if len(f.Val()) > 0 { // else another steward was faster
				verdicts[i] = b.options.Judge.Reply(ctx, finalReply(services[i], f.Val()[0]))
			}
		})
	}
	all.Wait()
	args := make([]any, 0, 7*len(entries))
	for i, v := range verdicts {
		args = append(args, v.args(entries[i])...)
	}
	return args, nil
}

func finalReply(service string, entry redis.XMessage) FinalReply {
	text := func(name string) string { s, _ := entry.Values[name].(string); return s }
	name, _, _ := strings.Cut(text("token"), ".")
	id, _, _ := strings.Cut(name, "/")
	return FinalReply{ID: id, Service: service, Reply: Reply{
		ContentType: text("content_type"), StatusCode: int(number(text("status_code"))), Body: []byte(text("body")), Size: len(text("body")),
	}}
}

func (v Verdict) args(entry string) []any {
	switch {
	case v.Fail != nil:
		return []any{entry, "fail", v.Fail.Code, v.Fail.Message, "", "", ""}
	case v.Change != nil:
		return []any{entry, "change", "", "", v.Change.ContentType, strconv.Itoa(v.Change.StatusCode), v.Change.Body}
	}
	return []any{entry, "pass", "", "", "", "", ""}
}
