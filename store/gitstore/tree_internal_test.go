package gitstore

import (
	"strings"
	"testing"
)

// Entries are in memory before their names are looked at one by one, so a tree object with long ones is refused at
// once.
func TestLongNamesAreNotKept(t *testing.T) {
	entry := func(n int) []byte {
		return []byte("100644 " + strings.Repeat("x", n) + "\x00" + strings.Repeat("i", 20))
	}
	if entries, err := parseTree(entry(maxName), 20); err != nil || len(entries) != 1 {
		t.Errorf("a name of %d bytes: %v, %v", maxName, entries, err)
	}
	if _, err := parseTree(entry(maxName+1), 20); err == nil {
		t.Errorf("a name of %d bytes is taken", maxName+1)
	}
}
