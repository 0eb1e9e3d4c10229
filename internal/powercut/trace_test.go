package powercut_test

import "testing"

// What counts as synced is what was written before a sync began that ended.
func TestTrace(t *testing.T) {
	const dir, file = "/d", "/d/appendonlydir/a.2.incr.aof"
	for name, test := range map[string]struct {
		lines        []string
		size, synced int64
	}{
		"at the start": {nil, 10, 10},
		"written":      {[]string{`7 write(8</d/appendonlydir/a.2.incr.aof>, "*2\r\n$6\r\nSE, 99) = 1"..., 20) = 20`}, 30, 10},
		"synced": {[]string{
			`7 write(8</d/appendonlydir/a.2.incr.aof>, "x"..., 20) = 20`,
			`7 fdatasync(8</d/appendonlydir/a.2.incr.aof>) = 0`,
			`7 write(8</d/appendonlydir/a.2.incr.aof>, "x"..., 5) = 5`,
		}, 35, 30},
		"by another thread, while more is written": {[]string{
			`7 write(8</d/appendonlydir/a.2.incr.aof>, "x"..., 20) = 20`,
			`8 fdatasync(8</d/appendonlydir/a.2.incr.aof> <unfinished ...>`,
			`7 write(8</d/appendonlydir/a.2.incr.aof>, "x"..., 5) = 5`,
			`8 <... fdatasync resumed>)          = 0`,
		}, 35, 30},
		"a sync that did not end": {[]string{
			`7 write(8</d/appendonlydir/a.2.incr.aof>, "x"..., 20) = 20`,
			`8 fdatasync(8</d/appendonlydir/a.2.incr.aof> <unfinished ...>`,
			`8 +++ killed by SIGKILL +++`,
		}, 30, 10},
		"a sync that failed": {[]string{
			`7 write(8</d/appendonlydir/a.2.incr.aof>, "x"..., 20) = 20`,
			`7 fdatasync(8</d/appendonlydir/a.2.incr.aof>) = -1 EIO (Input/output error)`,
		}, 30, 10},
		"a write that takes two lines": {[]string{
			`7 write(8</d/appendonlydir/a.2.incr.aof>, "x"..., 20 <unfinished ...>`,
			`8 fdatasync(8</d/appendonlydir/a.2.incr.aof>) = 0`,
			`7 <... write resumed>)              = 20`,
		}, 30, 10},
		"cut by the server": {[]string{`7 truncate("appendonlydir/a.2.incr.aof", 4) = 0`}, 4, 4},
		"others":            {[]string{`7 write(9<socket:[1]>, "x"..., 20) = 20`, `7 fsync(9</d/b>) = 0`, `9 +++ exited with 0 +++`}, 10, 10},
	} {
		t.Run(name, func(t *testing.T) {
			r := newReading(dir, map[string]int64{file: 10})
			for _, line := range test.lines {
				r.line(line)
			}
			if got := *r.file(file); got != (extent{test.size, test.synced}) {
				t.Errorf("%+v, want %d written and %d synced", got, test.size, test.synced)
			}
		})
	}
}
