package main

import (
	"testing"

	"narbor/cmd/narbor/control"
)

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

func TestShareKindsFollowTheSettings(t *testing.T) {
	keys := control.KeyStatus{PublicKeys: []string{"a-1"}, PrivateKeys: []string{"b-1"}, CircleKeys: []string{"c-1"}}
	for name, c := range map[string]struct {
		group bool
		what  control.SharingStatus
		keys  control.KeyStatus
		want  [4]string // all but what is never shared
	}{
		"no group": {false, control.SharingStatus{Sharing: "signed"}, keys,
			[4]string{"every neighbour", "no machine", "no machine", "no machine"}},
		"sources for all": {false, control.SharingStatus{Sharing: "signed", ShareSources: true}, control.KeyStatus{},
			[4]string{"no machine", "no machine", "every neighbour", "no machine"}},
		"group": {true, control.SharingStatus{Sharing: "signed", ShareSources: true}, keys,
			[4]string{"members of the group", "members of the group", "members of the group", "members of the group"}},
		"nothing": {true, control.SharingStatus{Sharing: "none", ShareSources: true}, keys,
			[4]string{"no machine", "no machine", "no machine", "no machine"}},
	} {
		st := control.Status{KeyStatus: c.keys, SharingStatus: c.what}
		st.Group = c.group
		for i, k := range shareKinds(st) {
			want := "no machine"
			if i < len(c.want) {
				want = c.want[i]
			}
			if k.With != want {
				t.Errorf("%s: %s is shared with %s, want %s", name, k.Kind, k.With, want)
			}
		}
	}
}
