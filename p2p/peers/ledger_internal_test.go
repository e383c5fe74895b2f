package peers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"narbor/p2p/p2ptest"
	"narbor/p2p/wire"
	"narbor/store"
	"narbor/trust"
)

// savedLedger returns a ledger to which changes were made by change, after they were saved.
func savedLedger(t testing.TB, file string, change func(*Ledger)) {
	t.Helper()
	l := NewLedger(file, zap.NewNop())
	change(l)
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // what there is to be saved is saved all the same
	if err := l.Run(ctx); err != nil {
		t.Fatal(err)
	}
}

// ban has a ledger ban a peer.
func (l *Ledger) banFor(id peer.ID, reason string) {
	for range maxStrikes {
		l.Strike(id, errors.New(reason))
	}
}

func TestBansOutlastTheProgramAndEnd(t *testing.T) {
	file := filepath.Join(t.TempDir(), "denied.json")
	id, other := p2ptest.NewPeer(t), p2ptest.NewPeer(t)
	synctest.Test(t, func(t *testing.T) {
		until := time.Now().Add(banTime)
		savedLedger(t, file, func(l *Ledger) { l.banFor(id, "sent <wrong> bytes") })

		time.Sleep(banTime - time.Second)
		l := NewLedger(file, zap.NewNop())
		if got := l.Bans(); len(got) != 1 || got[0].Reason != "sent <wrong> bytes" || !got[0].Until.Equal(until) || !l.Denies(id) {
			t.Errorf("bans before the end = %v, want one until %v", got, until)
		}
		time.Sleep(time.Second)
		if got := l.Bans(); len(got) != 0 || l.Denies(id) {
			t.Errorf("bans at the end = %v, want none", got)
		}
		if got := NewLedger(file, zap.NewNop()).denied; len(got) != 0 {
			t.Errorf("a new ledger after the end has %v, want none", got)
		}
		savedLedger(t, file, func(l *Ledger) { l.banFor(other, "lied") })
		if text, err := os.ReadFile(file); err != nil || strings.Contains(string(text), id.String()) {
			t.Errorf("the file still names a peer that is no longer banned: %s, %v", text, err)
		}
	})
}

func TestBanOfAWrongClockIsNoLongerThanOthers(t *testing.T) {
	now := time.Now()
	id := p2ptest.NewPeer(t)
	text := fmt.Sprintf(`[{"id":%q,"reason":"lied","until":%q}]`, id, now.AddDate(50, 0, 0).Format(time.RFC3339))
	list, err := parseDenyList([]byte(text), now)
	if got := list[id].Until; err != nil || !got.Equal(now.Add(banTime)) {
		t.Errorf("parseDenyList = until %v, %v, want %v", got, err, now.Add(banTime))
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
	if again, err := parseDenyList(text, now); err != nil || len(again) != maxDenied+1 {
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

func TestFailedSaveBlocksNoPeer(t *testing.T) {
	l := NewLedger(filepath.Join(t.TempDir(), "no", "such", "denied.json"), zap.NewNop())
	id := p2ptest.NewPeer(t)
	if err := l.Block(id); err == nil || l.Denies(id) {
		t.Errorf("block in a directory that does not exist = %v, and the peer is refused: %t", err, l.Denies(id))
	}
}

// Whatever a peer did, its ban is counted under one of a few words.
func TestBansAreCountedByReason(t *testing.T) {
	l := NewLedger("", zap.NewNop())
	for lie, want := range map[error]string{
		fmt.Errorf("x: %w", trust.ErrForged):      refusedSignature,
		fmt.Errorf("x: %w", store.ErrCorrupt):     refusedHash,
		fmt.Errorf("x: %w", ErrName):              refusedName,
		fmt.Errorf("x: %w", ErrProbing):           refusedProbing,
		fmt.Errorf("x: %w", wire.ErrWire):         refusedFormat,
		errors.New("something, in its own words"): refusedFormat,
	} {
		_, before := l.Totals()
		id := p2ptest.NewPeer(t)
		for range maxStrikes {
			l.Strike(id, lie)
		}
		_, after := l.Totals()
		if after[want] != before[want]+1 || len(after) != len(before) {
			t.Errorf("after a ban for %q, %v were banned and are %v, want one more for %s", lie, before, after, want)
		}
	}
}

// The wrong blocks that a liar has sent to many fetches at once are found one by one.
func TestLiesBeforeTheBanCountOnce(t *testing.T) {
	core, logs := observer.New(zap.WarnLevel)
	l := NewLedger("", zap.New(core))
	id := p2ptest.NewPeer(t)
	var fetches sync.WaitGroup
	for range 50 {
		fetches.Go(func() { l.Strike(id, errors.New("lied")) })
	}
	fetches.Wait()
	if lies, bans := logs.FilterMessage("neighbour broke the protocol").Len(),
		logs.FilterMessage("neighbour banned").Len(); lies != maxStrikes ||
		bans != 1 {
		t.Errorf("50 lies at once: %d are counted and %d bans, want %d and 1", lies, bans, maxStrikes)
	}
	if got := l.TallyOf(id).Strikes.Load(); got != 0 {
		t.Errorf("after the ban it begins with %d strikes", got)
	}
}

func TestUnreadableBansAreNoBans(t *testing.T) {
	good := fmt.Sprintf(`{"id":%q,"reason":"lied","until":%q}`, p2ptest.NewPeer(t), time.Now().Add(time.Hour).Format(time.RFC3339))
	for name, text := range map[string]string{
		"empty":        "",
		"cut":          "[" + good,
		"one is wrong": "[" + good + `,{"id":"nobody"}]`,
		"more follows": "[" + good + "] []",
		"no peer":      `[{"reason":"lied"}]`,
		"huge":         "[" + strings.Repeat(good+",\n", maxDenyFile/len(good)) + good + "]",
		"directory":    "",
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "denied.json")
			if name == "directory" {
				file = t.TempDir()
			} else if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			core, logs := observer.New(zap.WarnLevel)
			if got := NewLedger(file, zap.New(core)).Bans(); len(got) != 0 {
				t.Errorf("bans are %v, want none", got)
			}
			if warned := logs.All(); len(warned) != 1 {
				t.Errorf("newLedger warns %v, want one line", warned)
			}
		})
	}
}

func FuzzParseDenyList(f *testing.F) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	f.Add(`[{"id":"12D3KooWBmAwcd4PJNJvfV89HwE48nwkRmAgo8Vy3uQEyNNHBox2","reason":"lied","until":"2026-01-01T00:10:00Z"}]`)
	f.Add(`[{"id":"12D3KooWBmAwcd4PJNJvfV89HwE48nwkRmAgo8Vy3uQEyNNHBox2"}]`)
	f.Fuzz(func(t *testing.T, text string) {
		all, err := parseDenyList([]byte(text), now)
		if err != nil && len(all) > 0 {
			t.Errorf("parseDenyList(%q) = %v with the error %v", text, all, err)
		}
		for id, e := range all {
			if e.ID != id.String() || len(e.Reason) > maxReason || e.ended(now) || e.Until.After(now.Add(banTime)) {
				t.Errorf("parseDenyList(%q) keeps %+v", text, e)
			}
		}
	})
}
