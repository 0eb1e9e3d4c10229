package ledger_test

import (
	"flag"
	"fmt"
	"regexp"
	"testing"

	"github.com/coatcheck/coatcheck/internal/fleet"
)

var plant = flag.Bool("plant", false, "has the soak fail, by bugs that are planted")

// soakPlants are what grows, and the bug that has it grow in the gateway.
var soakPlants = map[string]struct {
	fleet.Plant
	shown *regexp.Regexp // the line that says so
}{
	"goroutines": {fleet.Plant{ // one stays of each request
		File: "internal/broker/submit.go", Good: "\tfor range submitPlaces {\n", Bad: "\tgo func() { select {} }()\n\tfor range submitPlaces {\n",
	}, regexp.MustCompile(`(?m)^✗ goroutines .*$`)},
}

// TestSoakPlants has the soak show what grows, within a minute: `make soak
// PLANT=goroutines`.
func TestSoakPlants(t *testing.T) {
	for what, p := range soakPlants {
		t.Run(what, func(t *testing.T) {
			if !*plant {
				t.Skip("takes long: make soak PLANT=" + what)
			}
			said, failed := p.Test(t, "-run", "^TestSoak$", "-args", fmt.Sprint("-minutes=", *minutes), fmt.Sprint("-seed=", *seed))
			line := p.shown.FindString(said)
			if !failed || line == "" {
				t.Fatalf("nobody notices what grows:\n%s", said)
			}
			fmt.Printf("with a bug in %s:\n    %s\n", p.File, line)
		})
	}
}
