package span_test

import (
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/internal/span"
)

func TestText(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 100 * time.Millisecond: "100ms", 10 * time.Second: "10s", 10 * time.Minute: "10m", 24 * time.Hour: "24h",
		61 * time.Minute: "1h1m", time.Hour + time.Second: "1h0m1s", 90 * time.Second: "1m30s",
	} {
		if got := span.Text(d); got != want {
			t.Errorf("%v is %q, want %q", d, got, want)
		}
	}
}
