package config_test

import (
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/coatcheck/coatcheck/internal/config"
)

var update = flag.Bool("update", false, "write the table into the README")

//go:generate go test -run TestReadmeTable . -update

func TestReadmeTable(t *testing.T) {
	const path, begin, end = "../../README.md", "<!-- config:begin, written by `make generate` -->\n", "<!-- config:end -->"
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok1 := strings.Cut(string(raw), begin)
	table, after, ok2 := strings.Cut(rest, end)
	if !ok1 || !ok2 {
		t.Fatal("the README has no place for the configuration table")
	}
	if table == config.Table() {
		return
	}
	if !*update {
		t.Fatal("the configuration table of the README is out of step: run make generate")
	}
	if err := os.WriteFile(path, []byte(before+begin+config.Table()+end+after), 0o644); err != nil {
		t.Fatal(err)
	}
}
