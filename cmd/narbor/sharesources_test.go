package main

import (
	"testing"

	"narbor/cmd/narbor/control"
	"narbor/p2p"
	"narbor/trust"
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
	const members = "members of the group"
	keys := control.KeyStatus{ShareKeys: []string{"a-1"}, PublicKeys: []string{"a-1"}, PrivateKeys: []string{"b-1"},
		CircleKeys: []string{"c-1"}}
	for name, c := range map[string]struct {
		group bool
		what  control.SharingStatus
		keys  control.KeyStatus
		want  [6]string // all but those that are never shared
	}{
		"no group": {false, control.SharingStatus{Sharing: "signed"}, keys,
			[6]string{"every neighbour", "every neighbour", "no machine", "no machine", "no machine", "no machine"}},
		"sources for all": {false, control.SharingStatus{Sharing: "signed", ShareSources: true}, control.KeyStatus{},
			[6]string{"no machine", "no machine", "no machine", "every neighbour", "every neighbour", "no machine"}},
		"group": {true, control.SharingStatus{Sharing: "signed", ShareSources: true}, keys,
			[6]string{members, members, members, members, members, members}},
		"nothing": {true, control.SharingStatus{Sharing: "none", ShareSources: true}, keys,
			[6]string{"no machine", "no machine", "no machine", "no machine", "no machine", "no machine"}},
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

func TestShareKindsAreCounted(t *testing.T) {
	var st control.Status
	st.Shared = map[trust.Kind]p2p.KindCount{}
	for i, kind := range trust.Kinds() {
		st.Shared[kind] = p2p.KindCount{Asked: int64(i + 1), Sent: int64(100 * i)}
	}
	for i, k := range shareKinds(st) { // in the same order
		if k.Asked != int64(i+1) || k.Sent != int64(100*i) {
			t.Errorf("%s: asked for %d, sent %d, want %d and %d", k.Kind, k.Asked, k.Sent, i+1, 100*i)
		}
	}
}
