package broker

import (
	"context"
	"fmt"
	"strings"

	"github.com/coatcheck/coatcheck/internal/correlation"
)

// glanced is how many requests one script looks at: some 10 µs each, in which Redis
// does nothing else.
const glanced = 128

var glanceScript = newPlainScript("glance")

// Sight is where a request stands: what changes when anything does that can be
// waited for.
type Sight struct {
	Status  Status
	Attempt int
	Events  int // as in a Record
}

// Gone is the sight of a request whose record is no longer there.
var Gone = Sight{Status: "gone"}

// Sight is where r stands.
func (r Record) Sight() Sight { return Sight{r.Status, r.Attempt, r.Events} }

// Glance tells where requests stand that this process attached to, at a fraction of the
// cost of Status. Of one that is not among the answers, Attach has to be asked. An error
// means that nobody could be asked.
func (b *Broker) Glance(ctx context.Context, ids []correlation.ID) (map[correlation.ID]Sight, error) {
	if err := b.Ready(); err != nil {
		return nil, err
	}
	homes := map[partition][]correlation.ID{}
	for _, id := range ids {
		homes[b.partitionOf(id)] = append(homes[b.partitionOf(id)], id)
	}
	seen, answered := make(map[correlation.ID]Sight, len(ids)), false
	var failed error
	for p, there := range homes {
		for len(there) > 0 {
			n := min(len(there), glanced)
			if err := b.glance(ctx, p, there[:n], seen); err != nil {
				failed = err
				break // the others may be on another server
			}
			there, answered = there[n:], true
		}
	}
	if !answered && failed != nil {
		return nil, failed
	}
	return seen, nil
}

func (b *Broker) glance(ctx context.Context, p partition, ids []correlation.ID, seen map[correlation.ID]Sight) error {
	ctx, stop := context.WithTimeout(ctx, commandTimeout)
	defer stop()
	args := []any{b.waiter()}
	for _, id := range ids {
		args = append(args, id.String())
	}
	raw, err := glanceScript.run(ctx, b.redis, p, []string{p.request(ids[0])}, args...)
	if err != nil {
		return fault("look at requests", err)
	}
	answers := texts(raw)
	if len(answers) != len(ids) {
		return fmt.Errorf("look at requests: %d answers for %d", len(answers), len(ids))
	}
	for i, text := range answers {
		switch f := strings.Fields(text); {
		case text == string(Gone.Status):
			seen[ids[i]] = Gone
		case len(f) == 3:
			s := Sight{Status(f[0]), int(number(f[1])), int(number(f[2]))}
			if s.Status.Terminal() {
				s.Events++ // the outcome is the last event
			}
			seen[ids[i]] = s
		}
	}
	return nil
}
