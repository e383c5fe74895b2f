package nixconf_test

import (
	"os"
	"os/exec"
	"testing"
)

// needNix skips a test that runs Nix's own programs where they are not installed; under CI=true they must be.
func needNix(tb testing.TB, programs ...string) {
	tb.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			needs(tb, err.Error())
		}
	}
}

func needs(tb testing.TB, what string) {
	tb.Helper()
	if os.Getenv("CI") == "true" {
		tb.Fatalf("CI=true, but: %s", what)
	}
	tb.Skip(what)
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}
