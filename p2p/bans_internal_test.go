package p2p

import (
	"context"
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

	"narbor/p2p/wire"
	"narbor/store"
	"narbor/trust"
)

// keptBans runs bans until they are saved.
func keptBans(t testing.TB, file string, all map[peer.ID]Struck) {
	t.Helper()
	b, err := loadBans(file)
	if err != nil {
		t.Fatal(err)
	}
	for id, s := range all {
		b.add(id, s)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // what there is to be saved is saved all the same
	if err := b.run(ctx, zap.NewNop()); err != nil {
		t.Fatal(err)
	}
}

func TestBansOutlastTheProgramAndEnd(t *testing.T) {
	file := filepath.Join(t.TempDir(), "bans.json")
	id := newTestPeer(t)
	synctest.Test(t, func(t *testing.T) {
		until := time.Now().Add(banTime)
		keptBans(t, file, map[peer.ID]Struck{id: {ID: id.String(), Reason: "sent <wrong> bytes", Until: until}})

		time.Sleep(banTime - time.Second)
		b, err := loadBans(file)
		if got := b.current()[id]; err != nil || got.Reason != "sent <wrong> bytes" || !got.Until.Equal(until) {
			t.Errorf("loadBans before the end = %v, %v, want the ban until %v", got, err, until)
		}
		time.Sleep(time.Second)
		if got := b.current(); len(got) != 0 {
			t.Errorf("current at the end = %v, want none", got)
		}
		if b, err = loadBans(file); err != nil || len(b.all) != 0 {
			t.Errorf("loadBans after the end = %v, %v, want none", b.all, err)
		}
		keptBans(t, file, map[peer.ID]Struck{newTestPeer(t): {Until: time.Now().Add(banTime)}})
		if text, err := os.ReadFile(file); err != nil || strings.Contains(string(text), id.String()) {
			t.Errorf("the file still names who is no longer banned: %s, %v", text, err)
		}
	})
}

func TestBansOfAWrongClockAreNoLongerThanOthers(t *testing.T) {
	file := filepath.Join(t.TempDir(), "bans.json")
	id := newTestPeer(t)
	keptBans(t, file, map[peer.ID]Struck{id: {ID: id.String(), Until: time.Now().AddDate(50, 0, 0)}})
	b, err := loadBans(file)
	if got := b.current()[id].Until; err != nil || got.IsZero() || time.Until(got) > banTime {
		t.Errorf("loadBans = until %v, %v, want at most %v from now", got, err, banTime)
	}
}

func TestBansAreBounded(t *testing.T) {
	file := filepath.Join(t.TempDir(), "bans.json")
	all := map[peer.ID]Struck{}
	latest := newTestPeer(t)
	reason := bounded(strings.Repeat("\x01<", maxReason))
	for range maxBlocked + 10 {
		id := newTestPeer(t)
		all[id] = Struck{ID: id.String(), Reason: reason, Until: time.Now().Add(time.Minute)}
	}
	all[latest] = Struck{ID: latest.String(), Until: time.Now().Add(time.Hour)}
	keptBans(t, file, all)
	b, err := loadBans(file)
	if err != nil || len(b.all) != maxBlocked {
		t.Errorf("loadBans of too many = %d bans, %v, want %d", len(b.all), err, maxBlocked)
	}
	if _, ok := b.all[latest]; !ok {
		t.Error("the ban that lasts longest was forgotten first")
	}
}

// startBanned makes a node with a file of bans, and returns what it warned of at its start.
func startBanned(t *testing.T, file string) (n *Node, warned []string) {
	t.Helper()
	core, logs := observer.New(zap.WarnLevel)
	s := newSigner(t)
	spool, err := store.OpenSpool(store.SpoolConfig{Dir: t.TempDir(), MinFree: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { spool.Close() })
	n, err = New(Config{Identity: newTestIdentity(t), Trusted: s.keys, ShareKeys: s.keys, Spool: spool, Bans: file, Log: zap.New(core)})
	if err != nil {
		t.Fatalf("New = %v", err)
	}
	t.Cleanup(func() { n.lan.host.Close() })
	for _, e := range logs.All() {
		warned = append(warned, fmt.Sprint(e.Message, " ", e.ContextMap()["error"]))
	}
	return n, warned
}

func TestNodeRefusesPeersBannedBefore(t *testing.T) {
	file := filepath.Join(t.TempDir(), "bans.json")
	liar := (&rogue{}).start(t)
	keptBans(t, file, map[peer.ID]Struck{liar.ID(): {ID: liar.ID().String(), Reason: "lied", Until: time.Now().Add(time.Hour)}})
	n, warned := startBanned(t, file)
	if len(warned) != 0 {
		t.Errorf("New warns: %q", warned)
	}
	if n.lan.gate.InterceptPeerDial(liar.ID()) || n.lan.gate.InterceptSecured(0, liar.ID(), nil) {
		t.Error("a connection with the liar is let through")
	}
	if s := n.Status().Struck; len(s) != 1 || s[0].ID != liar.ID().String() || s[0].Reason != "lied" {
		t.Errorf("struck are %v, want the liar", s)
	}
}

// Whatever a peer did, its ban is counted under one of a few words.
func TestBansAreCountedByReason(t *testing.T) {
	n, _ := startBanned(t, "")
	for lie, want := range map[error]string{
		fmt.Errorf("x: %w", trust.ErrForged):      refusedSignature,
		fmt.Errorf("x: %w", store.ErrCorrupt):     refusedHash,
		fmt.Errorf("x: %w", errName):              refusedName,
		fmt.Errorf("x: %w", errProbing):           refusedProbing,
		fmt.Errorf("x: %w", wire.ErrWire):         refusedFormat,
		errors.New("something, in its own words"): refusedFormat,
	} {
		before := n.Status().Bans
		id := newTestPeer(t)
		for range maxStrikes {
			n.strike(id, lie)
		}
		after := n.Status().Bans
		if after[want] != before[want]+1 || len(after) != len(before) {
			t.Errorf("after a ban for %q, %v were banned and are %v, want one more for %s", lie, before, after, want)
		}
	}
}

// What a liar sent to many fetches at once is found out one by one.
func TestLiesBeforeTheBanCountOnce(t *testing.T) {
	core, logs := observer.New(zap.WarnLevel)
	n, _ := startBanned(t, "")
	n.log = zap.New(core)
	id := newTestPeer(t)
	var fetches sync.WaitGroup
	for range 50 {
		fetches.Go(func() { n.strike(id, errors.New("lied")) })
	}
	fetches.Wait()
	if lies, bans := logs.FilterMessage("neighbour lied").Len(), logs.FilterMessage("neighbour banned").Len(); lies != maxStrikes ||
		bans != 1 {
		t.Errorf("50 lies at once: %d are counted and %d bans, want %d and 1", lies, bans, maxStrikes)
	}
	if got := n.tallyOf(id).strikes.Load(); got != 0 {
		t.Errorf("after the ban it begins with %d strikes", got)
	}
}

func TestUnreadableBansAreNoBans(t *testing.T) {
	good := fmt.Sprintf(`{"id":%q,"reason":"lied","until":%q}`, newTestPeer(t), time.Now().Add(time.Hour).Format(time.RFC3339))
	for name, text := range map[string]string{
		"empty":        "",
		"cut":          "[" + good,
		"one is wrong": "[" + good + `,{"id":"nobody"}]`,
		"more follows": "[" + good + "] []",
		"no peer":      `[{"reason":"lied"}]`,
		"huge":         "[" + strings.Repeat(good+",\n", maxBanFile/len(good)) + good + "]",
		"directory":    "",
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "bans.json")
			if name == "directory" {
				file = t.TempDir()
			} else if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			n, warned := startBanned(t, file)
			if got := n.Status().Struck; len(got) != 0 {
				t.Errorf("struck are %v, want none", got)
			}
			if len(warned) != 1 {
				t.Errorf("New warns %q, want one line", warned)
			}
		})
	}
}

func FuzzParseBans(f *testing.F) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	f.Add(`[{"id":"12D3KooWBmAwcd4PJNJvfV89HwE48nwkRmAgo8Vy3uQEyNNHBox2","reason":"lied","until":"2026-01-01T00:10:00Z"}]`)
	f.Fuzz(func(t *testing.T, text string) {
		all, err := parseBans([]byte(text), now)
		if err != nil && len(all) > 0 {
			t.Errorf("parseBans(%q) = %v with the error %v", text, all, err)
		}
		for id, s := range all {
			if s.ID != id.String() || len(s.Reason) > maxReason || !now.Before(s.Until) || s.Until.After(now.Add(banTime)) {
				t.Errorf("parseBans(%q) keeps %+v", text, s)
			}
		}
	})
}
