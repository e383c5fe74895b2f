package peers

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

	"narbor/p2p/p2ptest"
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

func TestFailedSaveBlocksNoPeer(t *testing.T) {
	l := NewLedger(filepath.Join(t.TempDir(), "no", "such", "denied.json"), zap.NewNop())
	id := p2ptest.NewPeer(t)
	if err := l.Block(id); err == nil || l.Denies(id) {
		t.Errorf("block in a directory that does not exist = %v, and the peer is refused: %t", err, l.Denies(id))
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
