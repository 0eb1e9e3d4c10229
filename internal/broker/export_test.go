package broker

import (
	"strconv"
	"time"
)

// EntryAt is the ID of a stream entry that Redis took then.
func EntryAt(t time.Time) string { return strconv.FormatInt(t.UnixMilli(), 10) + "-0" }
