package broker

import (
	"context"

	"github.com/coatcheck/coatcheck/internal/correlation"
)

var unclaimScript = newScript("unclaim")

// Unclaim puts work back that Reserve returned and that no worker has seen, so that
// its attempt is not used up. It goes to the end of its line. What has ended or
// was handed over meanwhile is left alone. ErrUnavailable: its lease will lapse.
func (b *Broker) Unclaim(ctx context.Context, d Delivery) error {
	p, name := b.homeOfWork(d)
	_, err := unclaimScript.run(ctx, b.redis, p, []string{p.record(name)}, name, d.Token, d.Entry)
	return fault("put work back", err)
}

// homeOfWork is where the record of a delivery is, and its name: the ID, of a leg of a
// scatter with its number, of a shared run with 0. A token that no gateway wrote leads nowhere.
func (b *Broker) homeOfWork(d Delivery) (p partition, name string) {
	parts := tokenForm.FindStringSubmatch(d.Token)
	if parts == nil {
		return partition{}, "none"
	}
	id, err := correlation.Parse(parts[1])
	if err != nil {
		return partition{}, "none"
	}
	return b.partitionOf(id), id.String() + parts[2]
}
