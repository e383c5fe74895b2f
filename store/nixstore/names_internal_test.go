package nixstore

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"narbor/store"
)

// readNames returns the names of a directory that did not change lately, read.
func readNames(t *testing.T) *storeNames {
	t.Helper()
	s := newStoreNames(t.TempDir())
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(s.dir, old, old); err != nil {
		t.Fatal(err)
	}
	for range namesAfter {
		s.lack("00000000000000000000000000000000")
		s.missed()
	}
	if !s.lack("00000000000000000000000000000000") {
		t.Fatal("an absent path is not known to be absent")
	}
	return s
}

func TestNamesThatChangeWhileTheyAreReadAreNotUsed(t *testing.T) {
	s := readNames(t)
	if err := os.WriteFile(filepath.Join(s.dir, "new"), nil, 0o444); err != nil {
		t.Fatal(err)
	}
	if s.readAll(time.Now()) || !s.read.IsZero() {
		t.Error("names were read while the directory had another time than when it was looked at, and are used")
	}
}

// TestNamesAreReadAgainAfterAMinute has a directory that has changed without a change of its modification time.
func TestNamesAreReadAgainAfterAMinute(t *testing.T) {
	s := readNames(t)
	hp := store.HashPart(strings.Repeat("a", 32))
	if err := os.WriteFile(filepath.Join(s.dir, string(hp)+"-new"), nil, 0o444); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(s.dir, s.time, s.time); err != nil {
		t.Fatal(err)
	}
	s.read = s.read.Add(-namesFresh - time.Second)
	if s.lack(hp) {
		t.Error("names that were read more than a minute ago are used")
	}
	for range namesAfter {
		s.missed()
	}
	if s.lack(hp) || !s.lack("00000000000000000000000000000000") {
		t.Error("the names were not read again")
	}
}
