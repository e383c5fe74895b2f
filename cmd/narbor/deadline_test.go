package main

import (
	"os"
	"strconv"
	"testing"
	"time"
)

// atMost is the deadline of a wait in a test: d times NARBOR_SLOW, as integration/check does with the timeouts of packages.
func atMost(d time.Duration) time.Duration {
	factor, err := strconv.Atoi(os.Getenv("NARBOR_SLOW"))
	if err != nil || factor < 1 {
		return d
	}
	return time.Duration(factor) * d
}

// eventually waits until ok.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for limit := time.Now().Add(atMost(time.Minute)); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("never %s", what)
		}
	}
}
