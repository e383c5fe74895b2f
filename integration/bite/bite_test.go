package main

import (
	"os"
	"testing"
)

// TestEveryGuardIsWhereTheListSays fails when a change of the code needs a change of guards.txt.
func TestEveryGuardIsWhereTheListSays(t *testing.T) {
	if err := os.Chdir("../.."); err != nil {
		t.Fatal(err)
	}
	guards, err := parseGuards(guardList)
	if err != nil {
		t.Fatal(err)
	}
	worst := 0
	var code tree
	for _, g := range guards {
		if _, err := g.mutate(&code); err != nil {
			t.Errorf("%s (%s): %v", g.title, g.place, err)
		}
		if g.worst {
			worst++
		}
	}
	if worst != 10 {
		t.Errorf("%d guards are marked as the ten worst to lose", worst)
	}
}
