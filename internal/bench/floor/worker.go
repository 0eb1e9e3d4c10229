package floor

import (
	"context"

	"github.com/redis/go-redis/v9"
)

// LimitWorker gives back what comes, a batch at a time, until ctx ends.
func LimitWorker(ctx context.Context, redisURL string) error {
	c, err := connect(redisURL)
	if err != nil {
		return err
	}
	if err := group(ctx, c); err != nil {
		return err
	}
	for ctx.Err() == nil {
		found, err := c.XReadGroup(ctx, &redis.XReadGroupArgs{
			Group: workersGroup, Consumer: "one", Streams: []string{queueStream, ">"}, Count: batch, Block: readBlock,
		}).Result()
		if err != nil {
			continue // nothing came
		}
		pipe := c.Pipeline()
		entries := make([]string, 0, batch)
		for _, m := range found[0].Messages {
			entries = append(entries, m.ID)
			pipe.XAdd(ctx, &redis.XAddArgs{Stream: replyStream, Values: []any{"id", m.Values["id"], "body", m.Values["body"]}})
		}
		pipe.XAck(ctx, queueStream, workersGroup, entries...)
		pipe.XDel(ctx, queueStream, entries...)
		if _, err := pipe.Exec(ctx); err != nil && ctx.Err() == nil {
			return err
		}
	}
	return nil
}
