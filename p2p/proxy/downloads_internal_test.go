package proxy

import (
	"context"
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"narbor/p2p/receive"
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
	px, _, ask := newProxyOf(t, signer, info, func(w http.ResponseWriter, r *http.Request) {
		sent.Add(1)
		select {
		case <-gate:
			w.Write(nar)
		case <-r.Context().Done():
		}
	})
	expire := func() {
		t.Helper()
		px.downloads.mu.Lock()
		px.downloads.running[m.NarHash()].expiry.Reset(0)
		px.downloads.mu.Unlock()
		storetest.Eventually(t, "without a download", func() bool {
			px.downloads.mu.Lock()
			defer px.downloads.mu.Unlock()
			return len(px.downloads.running) == 0
		})
	}
	if got := ask(); got != wire.VerdictYes {
		t.Fatalf("the answer is %d, want %d", got, wire.VerdictYes)
	}
	expire()
	storetest.Eventually(t, "without a fetch that nothing waits for", func() bool { return px.cfg.Fetches.Running(m.NarHash()) == nil })
	before := sent.Load()

	if got := ask(); got != wire.VerdictYes {
		t.Fatalf("the answer is %d, want %d", got, wire.VerdictYes)
	}
	nix := px.cfg.Fetches.Join(t.Context(), m.NarHash(), spool.Call{Name: m.Path()})
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
	if spent := px.downloads.total(); spent != 2*m.NarSize() {
		t.Errorf("%d bytes of the budget were spent, want two NARs of %d", spent, m.NarSize())
	}
}

// Nix's fetch may look into this machine's store first. A neighbour that asks meanwhile is served by the same fetch.
func TestNeighbourWaitsForTheFetchOfNix(t *testing.T) {
	signer := trusttest.NewSigner(t)
	nar := randomNAR(4 * store.BlockSize)
	info, m := signer.Sign(t, "wanted", nar)
	gate := make(chan struct{})
	defer close(gate)
	px, _, ask := newProxyOf(t, signer, info, func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-gate:
		case <-r.Context().Done():
		}
	})
	looked := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	nix := px.cfg.Fetches.Join(ctx, m.NarHash(), spool.Call{Name: m.Path(), Run: func(ctx context.Context) (*spool.NAR, error) {
		<-looked
		return fetchNow(ctx, px, m)
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
	if left := px.downloads.left(time.Now()); left != DefaultBudget || px.downloads.total() != 0 {
		t.Errorf("%d bytes of the budget are left, want all: the fetch is Nix's", left)
	}
	cancel()
	nix.Wait(ctx)
	<-nix.Done()
}

// A path in this machine's own store goes to Nix from there, without a wait for an upstream.
func TestWhatIsHereIsNotDownloadedForNeighbours(t *testing.T) {
	signer := trusttest.NewSigner(t)
	nar := randomNAR(1000)
	info, m := signer.Sign(t, "here", nar)
	here := new(store.Mem)
	here.Add(info, nar)
	px, _, ask := newProxyOf(t, signer, info, http.NotFound, here)
	if got := ask(); got != wire.VerdictNo {
		t.Errorf("the answer is %d, want %d", got, wire.VerdictNo)
	}
	if px.cfg.Fetches.Running(m.NarHash()) != nil || px.downloads.total() != 0 {
		t.Error("a path of this machine's store is being downloaded for a neighbour")
	}
}

// The download for neighbours fails, and Nix's own fetch goes on: the neighbours have no part in it, and cannot prolong it.
func TestDownloadIsForgottenAtItsEnd(t *testing.T) {
	signer := trusttest.NewSigner(t)
	info, m := signer.Sign(t, "wanted", randomNAR(4*store.BlockSize))
	gate := make(chan struct{})
	px, _, ask := newProxyOf(t, signer, info, func(w http.ResponseWriter, r *http.Request) {
		<-gate
		http.NotFound(w, r)
	})
	if got := ask(); got != wire.VerdictYes {
		t.Fatalf("the answer is %d, want %d", got, wire.VerdictYes)
	}
	stopped := make(chan struct{})
	nix := px.cfg.Fetches.Join(t.Context(), m.NarHash(), spool.Call{Name: m.Path(), Run: func(ctx context.Context) (*spool.NAR, error) {
		<-ctx.Done()
		close(stopped)
		return nil, ctx.Err()
	}})
	close(gate)
	storetest.Eventually(t, "without a download", func() bool { return !px.downloads.touch(m.NarHash()) }) // as a neighbour's question does
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	nix.Wait(gone)
	<-stopped // no neighbour's question holds it
}

// A call that takes no notice of its end holds up the download for a neighbour, which no neighbour waits for in the end.
func TestBudgetIsNotSpentOnWhatNeverBegins(t *testing.T) {
	signer := trusttest.NewSigner(t)
	info, m := signer.Sign(t, "wanted", randomNAR(1000))
	px, _, ask := newProxyOf(t, signer, info, http.NotFound)
	px.downloads.budget = 10 * m.NarSize() // of which little grows back during the test
	begun, stuck := make(chan struct{}), make(chan struct{})
	defer close(stuck)
	gone, cancel := context.WithCancel(t.Context())
	nix := px.cfg.Fetches.Join(gone, m.NarHash(), spool.Call{Name: m.Path(), Run: func(context.Context) (*spool.NAR, error) {
		close(begun)
		<-stuck
		return nil, store.ErrNotFound
	}})
	<-begun
	cancel()
	nix.Wait(gone)
	if got := ask(); got != wire.VerdictNo {
		t.Errorf("the answer is %d, want %d", got, wire.VerdictNo)
	}
	px.downloads.mu.Lock()
	px.downloads.running[m.NarHash()].expiry.Reset(0)
	px.downloads.mu.Unlock()
	storetest.Eventually(t, "with all of the budget", func() bool {
		return px.downloads.left(time.Now()) == px.downloads.budget && px.downloads.total() == 0
	})
}

// A neighbour that is refused, for want of budget for example, has no part in a fetch of this machine.
func TestRefusedNeighbourHasNoPartInNixsFetch(t *testing.T) {
	signer := trusttest.NewSigner(t)
	info, m := signer.Sign(t, "wanted", randomNAR(1000))
	px, _, _ := newProxyOf(t, signer, info, http.NotFound)
	a, err := px.cfg.Downloads.Begin(m)
	storetest.Must(t, err)
	defer a.End(nil)
	gate := make(chan struct{})
	px.cfg.Fetches.Join(t.Context(), m.NarHash(), spool.Call{Name: m.Path(), Run: func(context.Context) (*spool.NAR, error) {
		<-gate
		return nil, store.ErrNotFound
	}})
	defer close(gate)
	asker := px.cfg.Server.ClientOn(nobodyConn{}).Asker()
	if px.fetchFor(t.Context(), asker, m.Path().HashPart(), m.NarHash()) != a.Session {
		t.Error("a neighbour within its budget has no part in the fetch")
	}
	px.downloads.failed.Add(m.NarHash(), time.Now())
	if px.fetchFor(t.Context(), asker, m.Path().HashPart(), m.NarHash()) != nil {
		t.Error("a neighbour that is refused has a part in the fetch")
	}
}

// A path may have two NARs, if two upstreams have built it differently.
func TestNeighbourWaitsForTheNARThatItWants(t *testing.T) {
	signer := trusttest.NewSigner(t)
	info, m := signer.Sign(t, "wanted", randomNAR(1000))
	_, other := signer.Sign(t, "wanted", randomNAR(2000))
	px, _, _ := newProxyOf(t, signer, info, http.NotFound)
	a, err := px.cfg.Downloads.Begin(other)
	storetest.Must(t, err)
	defer a.End(nil)
	gate := make(chan struct{})
	defer close(gate)
	px.cfg.Fetches.Join(t.Context(), m.NarHash(), spool.Call{Name: m.Path(), Run: func(context.Context) (*spool.NAR, error) {
		<-gate
		return nil, store.ErrNotFound
	}})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if m.Path() != other.Path() || m.NarHash() == other.NarHash() {
		t.Fatal("these are not two NARs of a path")
	}
	if px.cfg.Downloads.Await(ctx, m) != nil {
		t.Error("the session of another NAR of the path was returned")
	}
}

// A hooked source calls a function before it answers.
type hooked struct {
	store.Source
	hook func()
}

func (h hooked) Info(ctx context.Context, hp store.HashPart) (store.Info, error) {
	h.hook()
	return h.Source.Info(ctx, hp)
}

// Two neighbours ask at once. A NAR that begins to arrive for the first is not taken for one of the store by the second.
func TestWhatArrivesMeanwhileIsNotTakenForHere(t *testing.T) {
	signer := trusttest.NewSigner(t)
	info, m := signer.Sign(t, "wanted", randomNAR(1000))
	var px *Proxy
	var a *receive.Arrival
	px, _, _ = newProxyOf(t, signer, info, http.NotFound, hooked{new(store.Mem), func() {
		if a == nil {
			var err error
			if a, err = px.cfg.Downloads.Begin(m); err != nil {
				t.Error(err)
			}
		}
	}})
	if px.isHere(t.Context(), m) {
		t.Error("a NAR that is arriving is taken for one that is here")
	}
	if a == nil {
		t.Fatal("the source was not asked")
	}
	a.End(nil)
}
