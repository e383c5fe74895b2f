package p2p

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"narbor/p2p/fetch"
	"narbor/p2p/p2ptest"
	"narbor/p2p/transport"
	"narbor/store"
	"narbor/store/spool"
	"narbor/trust/trusttest"
)

// The spool has room for one draft, so a second draft of the same NAR would fail.
func TestConcurrentFetchesOfANARHaveOneDraft(t *testing.T) {
	s := trusttest.NewSigner(t)
	nar := randomNAR(store.BlockSize)
	_, m := s.Sign(t, "one", nar)
	sp, err := spool.Open(spool.Config{Dir: t.TempDir(), MinFree: -1, MaxBytes: m.NarSize() * 3 / 2})
	if err != nil {
		t.Fatal(err)
	}
	defer sp.Close()
	n, err := New(Config{Host: transport.Config{Identity: p2ptest.NewIdentity(t)}, Trusted: s.Keys,
		Sharing: SharingConfig{Keys: s.Keys}, Spool: sp})
	if err != nil {
		t.Fatal(err)
	}
	defer n.lan.Host().Close()
	for range 20 {
		var mine atomic.Int64
		var opening sync.WaitGroup
		start := make(chan struct{})
		for range 16 {
			opening.Go(func() {
				<-start
				_, first, err := n.downloads.open(m)
				if err != nil {
					t.Errorf("open = %v", err)
				}
				if first {
					mine.Add(1)
				}
			})
		}
		close(start)
		opening.Wait()
		f, again, err := n.downloads.open(m)
		if err != nil || again || mine.Load() != 1 {
			t.Fatalf("%d fetches have begun, and another: %v, %v, want 1", mine.Load(), again, err)
		}
		f.draft.Discard()
		n.downloads.end(f)
	}
}

// Neighbours that asked for the NAR have gone; this machine's Nix still waits for it.
func TestDownloadForNeighboursGoesOnWhileNixWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, m := trusttest.NewSigner(t).Sign(t, "one", randomNAR(1000))
		px := &proxy{jobs: newProxyDownloads(1 << 20)}
		var ended atomic.Bool
		if _, mine := px.jobs.begin(netip.MustParseAddr("10.0.0.1"), m, func() { ended.Store(true) }); !mine {
			t.Fatal("the download has not begun")
		}
		f := &flight{Session: fetch.New(&fetch.Deps{}, m, nil, m, true), done: make(chan struct{})}
		waited := make(chan error, 1)
		go func() { waited <- px.await(t.Context(), f) }()
		time.Sleep(4 * fetch.LeaseTime)
		if ended.Load() {
			t.Error("the download has ended although Nix waits for it")
		}
		close(f.done)
		if err := <-waited; err != nil {
			t.Errorf("await = %v", err)
		}
		time.Sleep(2 * fetch.LeaseTime)
		if !ended.Load() {
			t.Error("the download goes on although nothing waits for it")
		}
	})
}
