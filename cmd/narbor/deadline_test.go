package main

import (
	"testing"
	"time"

	"narbor/store/storetest"
)

var (
	atMost  = storetest.AtMost
	fileNAR = storetest.FileNAR
)

// eventually waits until ok.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for limit := time.Now().Add(atMost(time.Minute)); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("never %s", what)
		}
	}
}
