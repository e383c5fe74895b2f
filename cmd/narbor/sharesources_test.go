package main

import "testing"

func TestShareSourcesNeedAGroupOrAll(t *testing.T) {
	for _, c := range []struct {
		whom          string
		group, on, ok bool
	}{
		{"group", true, true, true}, {"group", false, false, true}, {"all", false, true, true}, {"all", true, true, true},
		{"none", true, false, true}, {"none", false, false, true}, {"", true, false, false}, {"signed", true, false, false},
	} {
		if on, err := parseShareSources(c.whom, c.group); on != c.on || (err == nil) != c.ok {
			t.Errorf("parseShareSources(%q, %t) = %t, %v, want %t and an error: %t", c.whom, c.group, on, err, c.on, !c.ok)
		}
	}
}
