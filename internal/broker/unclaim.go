package broker

import (
	"context"
	"fmt"

	"github.com/coatcheck/coatcheck/internal/correlation"
)

var unclaimScript = newScript("unclaim")

// Unclaim puts work back that was claimed and that no worker has seen, so that
// its attempt is not used up. It goes to the end of its line. What has ended
// meanwhile is left alone. ErrUnavailable: its lease will lapse.
func (b *Broker) Unclaim(ctx context.Context, d Delivery) error {
	id, err := correlation.Parse(d.ID)
	if err != nil {
		return fmt.Errorf("put work back: %w", err)
	}
	p := partitionOf(id)
	_, err = unclaimScript.run(ctx, b.redis.commands, p, []string{p.request(id)}, d.ID, d.Token, d.Entry)
	return fault("put work back", err)
}
