package embedded_test

import (
	"os/exec"
	"strings"
	"testing"
)

// What dev prints is pasted behind redis-cli -u, which takes a URL without a
// user name for one whose name is empty.
func TestRedisCliTakesTheURL(t *testing.T) {
	r := start(t, "127.0.0.1:0")
	out, err := exec.Command("redis-cli", "--no-auth-warning", "-u", r.URL, "PING").CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != "PONG" {
		t.Errorf("redis-cli -u %s: %s%v", r.URL, out, err)
	}
}
