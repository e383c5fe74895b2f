// Package storetest has what the tests of several packages need: archives, trees and caches to read, the suite that
// each [store.Source] passes, and waits with a deadline. Only tests import it.
package storetest

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// AtMost is the deadline of a wait in a test: d times NARBOR_SLOW, as integration/check does with the timeouts of
// packages.
func AtMost(d time.Duration) time.Duration {
	factor, err := strconv.Atoi(os.Getenv("NARBOR_SLOW"))
	if err != nil || factor < 1 {
		return d
	}
	return time.Duration(factor) * d
}

// InCheck reports whether tests take the forms of integration/check, or the longer ones of the night, and not the shorter
// ones of a plain go test.
func InCheck() bool {
	return os.Getenv("NARBOR_CHECK") != "" || os.Getenv("NARBOR_NIGHTLY") != "" || os.Getenv("CI") == "true"
}

// Eventually waits until ok.
func Eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	for limit := time.Now().Add(AtMost(time.Minute)); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(limit) {
			tb.Fatalf("never %s", what)
		}
	}
}

// Must fails the test if there is an error.
func Must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// WriteText makes a file with its directories.
func WriteText(tb testing.TB, file, text string) {
	tb.Helper()
	Must(tb, errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o644)))
}

// ReadText returns the text of a file.
func ReadText(tb testing.TB, file string) string {
	tb.Helper()
	text, err := os.ReadFile(file)
	Must(tb, err)
	return string(text)
}

// Needs skips a test for a reason; under CI=true the test fails.
func Needs(tb testing.TB, reason string) {
	tb.Helper()
	if os.Getenv("CI") == "true" {
		tb.Fatalf("CI=true, but: %s", reason)
	}
	tb.Skip(reason)
}

// NeedNix skips a test that runs Nix's own programs where they are not installed; under CI=true they must be.
func NeedNix(tb testing.TB, programs ...string) {
	tb.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			Needs(tb, err.Error())
		}
	}
}

// Dump returns the archive that Nix makes of path.
func Dump(tb testing.TB, path string) []byte {
	tb.Helper()
	NeedNix(tb, "nix-store")
	cmd := exec.Command("nix-store", "--dump", path)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		tb.Fatalf("nix-store --dump %s: %v: %s", path, err, stderr.String())
	}
	return out
}
