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
	p, key := d.home()
	_, err := unclaimScript.run(ctx, b.redis.commands, p, []string{key}, d.ID, d.Token, d.Entry)
	return fault("put work back", err)
}

// home is where the record of a delivery is. An ID that no gateway wrote leads
// nowhere.
func (d Delivery) home() (partition, string) {
	id, err := correlation.Parse(d.ID)
	if err != nil {
		return 0, partition(0).prefix() + "none"
	}
	return partitionOf(id), partitionOf(id).request(id)
}
