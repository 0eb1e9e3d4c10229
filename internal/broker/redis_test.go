package broker_test

import "github.com/redis/go-redis/v9"

func xadd(stream string, values ...string) *redis.XAddArgs {
	return &redis.XAddArgs{Stream: stream, Values: values}
}

func z(score float64, member string) redis.Z { return redis.Z{Score: score, Member: member} }
