package redistest

import (
	"regexp"
	"strings"
)

var brief = regexp.MustCompile(`^(\S+) ([0-9a-f]+) (\S+) ((?:\d+ ){7}\S+ \d+ \d+)(?: (\d+) (\d+))?(?s:\n(.*))?$`)

// Record has the fields of the record of a request that is brief, see record.lua in the
// broker, by the names that they have in one that is a hash; nil where text is none.
func Record(text string) map[string]string {
	head, reply, _ := strings.Cut(text, "\n\n")
	v := brief.FindStringSubmatch(head)
	if v == nil {
		return nil
	}
	f := map[string]string{"service": v[1], "nonce": v[2], "entry": v[3], "plan": v[4], "attempt": "1", "status": "queued"}
	if v[5] != "" {
		f["status"], f["finished"], f["started"] = "succeeded", v[5], v[6]
	}
	for line := range strings.SplitSeq(v[7], "\n") {
		if name, value, found := strings.Cut(line, " "); found {
			f[name] = value
		}
	}
	if reply != "" {
		f["reply"] = reply
	}
	return f
}
