package main

import (
	"fmt"
	"os"
	"testing"
	"time"
)

func TestStartOfThisProcess(t *testing.T) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", os.Getpid()))
	if err != nil {
		t.Skip(err)
	}
	kernel, err := os.ReadFile("/proc/stat")
	if err != nil {
		t.Skip(err)
	}
	if age := time.Since(startOf(string(stat), string(kernel))); age < -2*time.Second || age > time.Hour {
		t.Errorf("this process is %v old", age)
	}
	if got := startOf("1 (a) b) S 0", "x"); !got.IsZero() {
		t.Errorf("nonsense began %v", got)
	}
}

func TestLineIsFoundAgain(t *testing.T) {
	for _, c := range []struct {
		text, kept string
		found      bool
	}{
		{"", "", false},
		{"a = b\n" + confLine() + "\n", "a = b\n", true},
		{"extra-substituters = http://127.0.0.1:6272?trusted=0\nx = y", "x = y", true},
		{"extra-substituters=http://127.0.0.1:6272\n", "extra-substituters=http://127.0.0.1:6272\n", false}, // Nix refuses it, and it is not ours
		{"extra-substituters = http://127.0.0.1:6272 https://other\n", "extra-substituters = http://127.0.0.1:6272 https://other\n", false},
		{"# extra-substituters = http://127.0.0.1:6272\n", "# extra-substituters = http://127.0.0.1:6272\n", false},
		{"substituters = http://127.0.0.1:6272\n", "substituters = http://127.0.0.1:6272\n", false},
	} {
		if kept, found := withoutLine(c.text); kept != c.kept || found != c.found {
			t.Errorf("withoutLine(%q) = %q, %t, want %q, %t", c.text, kept, found, c.kept, c.found)
		}
	}
}
