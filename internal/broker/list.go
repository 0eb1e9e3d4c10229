package broker

import (
	"cmp"
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/coatcheck/coatcheck/internal/correlation"
)

// Limits of one List: however little fits, it ends.
const (
	MaxList    = 500
	listBudget = 2000 // looked at in each index in one round
	listRounds = 5
	// mintMargin is by how much the time inside of an ID and the time at which
	// Redis accepted it may differ: the clocks of the gateways, and a slow submit.
	mintMargin = 10 * time.Minute
)

// listings are the indexes of a tenant in a partition: of the active requests,
// then of each outcome. A request moves from the first to another in one step,
// so whoever reads in this order meets it at least once.
var listings = []string{"open", string(Succeeded), string(Failed), string(TimedOut), string(Canceled)}

var listScript = newPlainScript("list")

// Query is what List looks for. Zero values leave a limit out.
type Query struct {
	Tenant       string
	Service      string
	Statuses     []Status // none: the active ones
	Tags         []string // all of them
	Since, Until time.Time
	IDPrefix     string // of the text form, lower case
	Limit        int    // 1 to MaxList
	Cursor       string // of the page before
}

// Page is a part of the listing.
type Page struct {
	Records []Record // newest first, without the bodies of replies
	Cursor  string   // of the next page; "" at the end
}

// point is where a listing has come to: what is older comes next.
type point struct {
	created string // ms, "+inf" to begin with
	id      string // "" at the beginning
}

func (a point) compare(b point) int {
	return cmp.Or(cmp.Compare(number(a.created), number(b.created)), cmp.Compare(a.id, b.id))
}

func (a point) cursor() string {
	return base64.RawURLEncoding.EncodeToString([]byte(a.created + " " + a.id))
}

func pointOf(cursor string) (point, error) {
	raw, err := base64.RawURLEncoding.DecodeString(cursor)
	created, text, _ := strings.Cut(string(raw), " ")
	id, malformed := correlation.Parse(text)
	if err != nil || malformed != nil || number(created) <= 0 || len(created) > 15 {
		return point{}, ErrCursor
	}
	return point{strconv.FormatInt(number(created), 10), id.String()}, nil
}

// List reads a page of a tenant's requests by Created, newest first. All active
// requests are listed, and of each outcome the newest maxListed of a partition.
// A page may be short and have a cursor all the same, where much was looked at
// for little. ErrCursor, ErrUnavailable.
func (b *Broker) List(ctx context.Context, q Query) (Page, error) {
	if err := b.Ready(); err != nil {
		return Page{}, err
	}
	from, to := point{created: "+inf"}, int64(0)
	if q.Cursor != "" {
		var err error
		if from, err = pointOf(q.Cursor); err != nil {
			return Page{}, err
		}
	}
	newest, oldest := q.window()
	if !newest.IsZero() && (from.id == "" || number(from.created) > newest.UnixMilli()) {
		from = point{created: strconv.FormatInt(newest.UnixMilli(), 10)}
	}
	if !oldest.IsZero() {
		to = oldest.UnixMilli()
	}
	var page Page
	for range listRounds {
		found, stopped, err := b.look(ctx, q, from, to)
		if err != nil {
			return Page{}, err
		}
		take := found[:min(len(found), q.Limit-len(page.Records))]
		records, err := b.records(ctx, take)
		if err != nil {
			return Page{}, err
		}
		for _, r := range records {
			if r.Tenant == q.Tenant && q.wants(r.Status) {
				page.Records = append(page.Records, r)
			}
		}
		switch {
		case len(take) < len(found):
			from = take[len(take)-1]
		case stopped == nil:
			return page, nil
		default:
			from = *stopped
		}
		if len(page.Records) == q.Limit {
			break
		}
	}
	page.Cursor = from.cursor()
	return page, nil
}

// window is the time of Created within which to look, both inclusive.
func (q Query) window() (newest, oldest time.Time) {
	oldest = q.Since
	if !q.Until.IsZero() {
		newest = q.Until.Add(-time.Millisecond)
		if up := q.Until.Truncate(time.Millisecond); up.Before(q.Until) {
			newest = up
		}
	}
	if down := oldest.Truncate(time.Millisecond); down.Before(oldest) {
		oldest = down.Add(time.Millisecond)
	}
	if q.IDPrefix == "" {
		return newest, oldest
	}
	digits := strings.ReplaceAll(q.IDPrefix, "-", "")
	digits = digits[:min(len(digits), 12)]
	first, _ := strconv.ParseInt(digits+strings.Repeat("0", 12-len(digits)), 16, 64)
	last, _ := strconv.ParseInt(digits+strings.Repeat("f", 12-len(digits)), 16, 64)
	low, high := time.UnixMilli(first).Add(-mintMargin), time.UnixMilli(last).Add(mintMargin)
	if newest.IsZero() || high.Before(newest) {
		newest = high
	}
	if low.After(oldest) {
		oldest = low
	}
	return newest, oldest
}

func (q Query) wants(s Status) bool {
	if len(q.Statuses) == 0 {
		return !s.Terminal()
	}
	return slices.Contains(q.Statuses, s)
}

// indexes are those in which what is wanted may be.
func (q Query) indexes() (names []string) {
	for _, name := range listings {
		if name == "open" {
			if len(q.Statuses) == 0 || slices.ContainsFunc(q.Statuses, func(s Status) bool { return !s.Terminal() }) {
				names = append(names, name)
			}
		} else if slices.Contains(q.Statuses, Status(name)) {
			names = append(names, name)
		}
	}
	return names
}

// look asks every index at once. found is newest first, and whole as far as
// stopped, where at least one index was given up; nil where all are at their end.
func (b *Broker) look(ctx context.Context, q Query, from point, to int64) (found []point, stopped *point, err error) {
	ctx, stop := context.WithTimeout(ctx, commandTimeout)
	defer stop()
	args := []any{from.created, from.id, to, q.Limit + 1, listBudget, q.Service, q.IDPrefix}
	for _, tag := range q.Tags {
		args = append(args, tag)
	}
	ask := func() (answers []*redis.Cmd) {
		pipe := b.redis.commands.Pipeline()
		for _, p := range b.parts() {
			for _, name := range q.indexes() {
				answers = append(answers, listScript.in(ctx, pipe, b.redis, p, []string{p.listing(name, q.Tenant)}, args...))
			}
		}
		_, _ = pipe.Exec(ctx) // each answer has its own error
		return answers
	}
	answers := ask()
	if b.unknownScripts(ctx, answers) {
		answers = ask()
	}
	for _, a := range answers {
		raw, err := a.Result()
		if err != nil {
			return nil, nil, fault("look through the listing", err)
		}
		v := texts(raw)
		if v[0] != "" && (stopped == nil || (point{v[0], v[1]}).compare(*stopped) > 0) {
			stopped = &point{v[0], v[1]}
		}
		for i := 2; i+1 < len(v); i += 2 {
			found = append(found, point{v[i], v[i+1]})
		}
	}
	slices.SortFunc(found, func(a, b point) int { return b.compare(a) })
	found = slices.Compact(found) // one that moved while we looked
	if stopped != nil {
		found = slices.DeleteFunc(found, func(f point) bool { return f.compare(*stopped) < 0 })
	}
	return found, stopped, nil
}

// records reads those that are still there, in order, without reply bodies.
func (b *Broker) records(ctx context.Context, places []point) (records []Record, err error) {
	ctx, stop := context.WithTimeout(ctx, commandTimeout)
	defer stop()
	for some := range slices.Chunk(places, pipelineCommands) {
		ids := make([]correlation.ID, len(some))
		for i, at := range some {
			if ids[i], err = correlation.Parse(at.id); err != nil {
				return nil, fmt.Errorf("read an ID of the listing: %w", err)
			}
		}
		asks := make([]readAsk, len(ids))
		for i, id := range ids {
			asks[i].id = id
		}
		for i, a := range b.readAll(ctx, asks, 0) {
			if a.err != nil {
				return nil, fault("read a listed request", a.err)
			}
			if a.raw == nil {
				continue // forgotten, and not pruned yet
			}
			r, err := parseView(ids[i], a.raw)
			if err != nil {
				return nil, err
			}
			records = append(records, r)
		}
	}
	return records, nil
}
