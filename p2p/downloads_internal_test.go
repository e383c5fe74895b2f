package p2p

import (
	"context"
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"narbor/p2p/wire"
	"narbor/store"
	"narbor/store/spool"
	"narbor/store/storetest"
	"narbor/trust/trusttest"
)

// Neighbours that asked for the NAR have gone; this machine's Nix still waits for it.
func TestDownloadForNeighboursGoesOnWhileNixWaits(t *testing.T) {
	signer := trusttest.NewSigner(t)
	nar := randomNAR(4 * store.BlockSize)
	info, m := signer.Sign(t, "wanted", nar)
	var sent atomic.Int32
	gate := make(chan struct{})
	n, ask := helper(t, signer, info, func(w http.ResponseWriter, r *http.Request) {
		sent.Add(1)
		select {
		case <-gate:
			w.Write(nar)
		case <-r.Context().Done():
		}
	})
	expire := func() {
		t.Helper()
		n.proxy.jobs.mu.Lock()
		n.proxy.jobs.jobs[m.NarHash()].lease.Reset(0)
		n.proxy.jobs.mu.Unlock()
		storetest.Eventually(t, "without a job", func() bool {
			n.proxy.jobs.mu.Lock()
			defer n.proxy.jobs.mu.Unlock()
			return len(n.proxy.jobs.jobs) == 0
		})
	}
	if got := ask(); got != wire.VerdictYes {
		t.Fatalf("the answer is %d, want %d", got, wire.VerdictYes)
	}
	expire()
	storetest.Eventually(t, "without a fetch that nothing waits for", func() bool { return n.downloads.shared.Running(m.NarHash()) == nil })
	before := sent.Load()

	if got := ask(); got != wire.VerdictYes {
		t.Fatalf("the answer is %d, want %d", got, wire.VerdictYes)
	}
	nix := n.downloads.shared.Join(t.Context(), m.NarHash(), spool.Call{Name: m.Path()})
	expire()
	storetest.Eventually(t, "asking the upstream", func() bool { return sent.Load() > before })
	close(gate)
	sp, err := nix.Wait(t.Context())
	if err != nil {
		t.Fatalf("Nix waits, and the download for neighbours has ended: %v", err)
	}
	defer sp.Close()
	if got, err := io.ReadAll(io.NewSectionReader(sp, 0, sp.Size())); err != nil || string(got) != string(nar) {
		t.Errorf("%d bytes, %v; want the %d of the NAR", len(got), err, len(nar))
	}
	if spent := n.proxy.jobs.total(); spent != 2*m.NarSize() {
		t.Errorf("%d bytes of the budget were spent, want two NARs of %d", spent, m.NarSize())
	}
}

// Nix's fetch may look into this machine's store first. A neighbour that asks meanwhile is helped by the same fetch.
func TestNeighbourWaitsForTheFetchOfNix(t *testing.T) {
	signer := trusttest.NewSigner(t)
	nar := randomNAR(4 * store.BlockSize)
	info, m := signer.Sign(t, "wanted", nar)
	gate := make(chan struct{})
	defer close(gate)
	n, ask := helper(t, signer, info, func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-gate:
		case <-r.Context().Done():
		}
	})
	looked := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	nix := n.downloads.shared.Join(ctx, m.NarHash(), spool.Call{Name: m.Path(), Run: func(ctx context.Context) (*spool.NAR, error) {
		<-looked
		return n.Fetch(ctx, m)
	}})
	if got := ask(); got != wire.VerdictNo {
		t.Errorf("the answer before anything is received is %d, want %d", got, wire.VerdictNo)
	}
	answer := make(chan wire.Verdict)
	go func() { answer <- ask() }()
	close(looked)
	if got := <-answer; got != wire.VerdictYes {
		t.Errorf("the answer is %d, want %d", got, wire.VerdictYes)
	}
	if left := n.proxy.jobs.left(time.Now()); left != DefaultBudget || n.proxy.jobs.total() != 0 {
		t.Errorf("%d bytes of the budget are left, want all: the fetch is Nix's", left)
	}
	cancel()
	nix.Wait(ctx)
	<-nix.Done()
}
