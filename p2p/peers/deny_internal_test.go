package peers

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"narbor/p2p/p2ptest"
)

func TestBanOfAWrongClockIsNoLongerThanOthers(t *testing.T) {
	now := time.Now()
	id := p2ptest.NewPeer(t)
	list, err := newDenyList([]Denied{{id.String(), "lied", now.AddDate(50, 0, 0)}}, now)
	if got := list[id].Until; err != nil || !got.Equal(now.Add(banTime)) {
		t.Errorf("newDenyList = until %v, %v, want %v", got, err, now.Add(banTime))
	}
}

func TestBansAreBounded(t *testing.T) {
	now := time.Now()
	list, latest, blocked := denyList{}, p2ptest.NewPeer(t), p2ptest.NewPeer(t)
	list.ban(latest, "lied", now.Add(banTime))
	if err := list.block(blocked); err != nil {
		t.Fatal(err)
	}
	reason := Bounded(strings.Repeat("\x01<", maxReason))
	for range maxDenied + 10 {
		list.ban(p2ptest.NewPeer(t), reason, now.Add(time.Minute))
	}
	if got := list.bans(now); len(got) != maxDenied {
		t.Errorf("%d bans, want %d", len(got), maxDenied)
	}
	if !list.denies(latest, now) || !list.denies(blocked, now) {
		t.Error("the ban that lasts longest, or a peer that the user has blocked, was forgotten first")
	}
	text, err := json.Marshal(list.entries(now))
	if err != nil || len(text) > maxDenyFile {
		t.Errorf("a full list takes %d bytes (%v), and %d are read", len(text), err, maxDenyFile)
	}
	if again, err := newDenyList(list.entries(now), now); err != nil || len(again) != maxDenied+1 {
		t.Errorf("a full list is read as %d entries, %v", len(again), err)
	}
}

func TestBlockedPeersAreBounded(t *testing.T) {
	list, first := denyList{}, p2ptest.NewPeer(t)
	list.block(first)
	for range maxBlocked - 1 {
		if err := list.block(p2ptest.NewPeer(t)); err != nil {
			t.Fatal(err)
		}
	}
	if err := list.block(p2ptest.NewPeer(t)); err == nil {
		t.Errorf("more than %d peers can be blocked", maxBlocked)
	}
	if err := list.block(first); err != nil {
		t.Errorf("a peer that is blocked already: %v", err)
	}
}

func TestBlockOutranksBan(t *testing.T) {
	now := time.Now()
	list, id := denyList{}, p2ptest.NewPeer(t)
	list.ban(id, "lied", now.Add(time.Hour))
	list.block(id)
	list.ban(id, "lied again", now.Add(time.Hour))
	if !list.denies(id, now.AddDate(100, 0, 0)) || len(list.bans(now)) != 0 {
		t.Errorf("after a ban, block and ban the list is %v, want a block that does not end", list)
	}
	list.allow(id)
	if list.denies(id, now) {
		t.Error("a peer that is allowed again is refused")
	}
}

func FuzzNewDenyList(f *testing.F) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	f.Add(`[{"id":"12D3KooWBmAwcd4PJNJvfV89HwE48nwkRmAgo8Vy3uQEyNNHBox2","reason":"lied","until":"2026-01-01T00:10:00Z"}]`)
	f.Add(`[{"id":"12D3KooWBmAwcd4PJNJvfV89HwE48nwkRmAgo8Vy3uQEyNNHBox2"}]`)
	f.Fuzz(func(t *testing.T, text string) {
		var saved []Denied
		if json.Unmarshal([]byte(text), &saved) != nil {
			return
		}
		all, err := newDenyList(saved, now)
		if all == nil || err != nil && len(all) > 0 {
			t.Errorf("newDenyList(%q) = %#v with the error %v, want a list", text, all, err)
		}
		for id, e := range all {
			if e.ID != id.String() || len(e.Reason) > maxReason || e.ended(now) || e.Until.After(now.Add(banTime)) {
				t.Errorf("newDenyList(%q) keeps %+v", text, e)
			}
		}
	})
}
