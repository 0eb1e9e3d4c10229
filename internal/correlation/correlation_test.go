package correlation_test

import (
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/coatcheck/coatcheck/internal/correlation"
)

func TestMintedIDCarriesWhatItSays(t *testing.T) {
	ring := correlation.Keyring{correlation.NewKey()}
	rapid.Check(t, func(t *rapid.T) {
		ms := rapid.Int64Range(0, 1<<48-1).Draw(t, "ms")
		partition := rapid.IntRange(0, correlation.MaxPartitions-1).Draw(t, "partition")
		tenant := rapid.String().Draw(t, "tenant")
		id := ring.Mint(time.UnixMilli(ms), partition, tenant)
		if id.Partition() != partition || id.Time().UnixMilli() != ms {
			t.Fatalf("%s: partition %d at %d, want %d at %d", id, id.Partition(), id.Time().UnixMilli(), partition, ms)
		}
		again, err := correlation.Parse(id.String())
		if err != nil || again != id {
			t.Fatalf("parse %s: %v, %v", id, again, err)
		}
		if err := ring.Verify(id, tenant); err != nil {
			t.Fatalf("verify: %v", err)
		}
	})
}

func TestVerifyRefuses(t *testing.T) {
	ring := correlation.Keyring{correlation.NewKey()}
	id := ring.Mint(time.Now(), 7, "a")
	if err := ring.Verify(id, "b"); !errors.Is(err, correlation.ErrForged) {
		t.Errorf("foreign tenant: %v", err)
	}
	if err := (correlation.Keyring{correlation.NewKey()}).Verify(id, "a"); !errors.Is(err, correlation.ErrForged) {
		t.Errorf("foreign key: %v", err)
	}
	for bit := range 128 {
		forged := id
		forged[bit/8] ^= 1 << (bit % 8)
		if err := ring.Verify(forged, "a"); !errors.Is(err, correlation.ErrForged) {
			t.Errorf("bit %d flipped: %v", bit, err)
		}
	}
	rotated := correlation.Keyring{correlation.NewKey(), ring[0]}
	if err := rotated.Verify(id, "a"); err != nil {
		t.Errorf("after rotation: %v", err)
	}
}

// The form is RFC 9562's; the tag pins the bytes that are authenticated, so
// that IDs issued by an older gateway still resolve.
func TestGoldenID(t *testing.T) {
	ring, err := correlation.ParseKeyring("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f")
	if err != nil {
		t.Fatal(err)
	}
	id, err := correlation.Parse("01989b2c-4d5e-8003-8011-223303d39444")
	if err != nil {
		t.Fatal(err)
	}
	if id.Partition() != 3 || id.Time().UTC().Format(time.RFC3339Nano) != "2025-08-11T22:07:08.638Z" {
		t.Errorf("partition %d at %v", id.Partition(), id.Time().UTC())
	}
	if err := ring.Verify(id, "acme"); err != nil {
		t.Errorf("verify: %v", err)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, text := range []string{
		"", "x", "01989b2c4d5e80038011223344556677", "{01989b2c-4d5e-8003-8011-223344556677}",
		"urn:uuid:01989b2c-4d5e-8003-8011-223344556677",
		"01989b2c-4d5e-4003-8011-223344556677", // version 4
		"01989b2c-4d5e-8003-0011-223344556677", // other variant
		"01989b2c-4d5e-8003-8011-22334455667g",
	} {
		if _, err := correlation.Parse(text); !errors.Is(err, correlation.ErrMalformed) {
			t.Errorf("Parse(%q): %v", text, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("01989b2c-4d5e-8003-8011-223344556677")
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		id, err := correlation.Parse(text)
		if err != nil {
			return
		}
		again, err := correlation.Parse(id.String())
		if err != nil || again != id {
			t.Errorf("%q became %v", text, again)
		}
	})
}
