package broker_test

import (
	"context"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/coatcheck/coatcheck/internal/redistest"
)

// recordOf has the fields of a record, by their names, whichever of its two forms it has,
// see record.lua.
func recordOf(ctx context.Context, t *testing.T, c *redis.Client, id string) map[string]string {
	t.Helper()
	key := "cc:{0}:request:" + id
	if c.Type(ctx, key).Val() != "string" {
		return c.HGetAll(ctx, key).Val()
	}
	text := c.Get(ctx, key).Val()
	f := redistest.Record(text)
	if f == nil {
		t.Fatalf("%s is no record: %q", key, text)
	}
	return f
}

// unfolded makes a hash of the record of id, as a script does that changes it. Returns its key.
func unfolded(ctx context.Context, t *testing.T, c *redis.Client, id string) string {
	t.Helper()
	key, f := "cc:{0}:request:"+id, recordOf(ctx, t, c, id)
	if err := c.Del(ctx, key).Err(); err != nil {
		t.Fatal(err)
	}
	if err := c.HSet(ctx, key, f).Err(); err != nil {
		t.Fatal(err)
	}
	return key
}
