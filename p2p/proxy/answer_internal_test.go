package proxy

import (
	"bufio"
	"bytes"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"narbor/p2p/fetch"
	"narbor/p2p/peers"
	"narbor/p2p/wire"
	"narbor/store"
	"narbor/store/storetest"
	"narbor/trust"
	"narbor/trust/trusttest"
)

func TestHalfOfWhatIsLeftIsForOneAddress(t *testing.T) {
	b := newDownloads(1000)
	now := time.Now()
	at := func(last byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, last}) }
	for _, tt := range []struct {
		from  byte
		bytes int64
		want  bool
	}{{1, 400, true}, {1, 200, false}, {1, 100, true}, {1, 1, false}, {2, 251, false}, {2, 250, true}, {1, 1, false}, {3, 126, false},
		{3, 125, true}} {
		if got := b.spend(at(tt.from), tt.bytes, now); got != tt.want {
			t.Errorf("spend(%s, %d) = %v, want %v", at(tt.from), tt.bytes, got, tt.want)
		}
	}
	if left := b.left(now); left != 125 {
		t.Errorf("%d bytes are left of 1000, want 125", left)
	}
	if !b.spend(at(4), 300, now.Add(12*time.Hour)) {
		t.Error("half a day later half of it is not there again")
	}
	for last := range 200 { // with whatever addresses, there is no more than the budget
		for i := int64(1000); i > 0; i /= 2 {
			b.spend(at(byte(last)), i, now.Add(12*time.Hour))
		}
	}
	if left := b.left(now.Add(12 * time.Hour)); left < 0 {
		t.Errorf("%d bytes are left", left)
	}
}

func TestWhatMayNotBeSharedIsNotFetchedForOthers(t *testing.T) {
	nar := randomNAR(store.BlockSize)
	mine, theirs := trusttest.NewSigner(t), trusttest.NewSigner(t)
	for shared, want := range map[*trust.Keys][2]wire.Verdict{mine.Keys: {wire.VerdictYes, wire.VerdictHere},
		theirs.Keys: {wire.VerdictNo, wire.VerdictNo}} {
		info, m := mine.Sign(t, "own", nar)
		px, sp := newProxy(t, mine.Keys, shared, "http://127.0.0.1:1", new(store.Mem))
		a, err := px.cfg.Downloads.Begin(m)
		storetest.Must(t, err)
		if got := asks(t, px, info); got != want[0] {
			t.Errorf("the answer about a NAR that is arriving is %d, want %d", got, want[0])
		}
		a.End(nil)
		draft, err := sp.Resume(m.NarHash(), m.NarSize())
		storetest.Must(t, err)
		_, err = draft.WriteAt(nar, 0)
		storetest.Must(t, err)
		spooled, err := draft.Commit(nil)
		storetest.Must(t, err)
		defer spooled.Close()
		if !px.cfg.Downloads.Spooled(m) {
			t.Fatal("it is not in the spool")
		}
		if got := asks(t, px, info); got != want[1] {
			t.Errorf("the answer about a NAR in the spool is %d, want %d", got, want[1])
		}
	}
}

func TestABoundedNumberOfNARsIsFetchedForOthersAtOnce(t *testing.T) {
	signer := trusttest.NewSigner(t)
	info, _ := signer.Sign(t, "wanted", randomNAR(1000))
	ended := make(chan struct{})
	px, _, ask := newProxyOf(t, signer, info, func(http.ResponseWriter, *http.Request) { <-ended })
	defer close(ended)
	px.downloads.mu.Lock()
	for i := range maxDownloads {
		px.downloads.running[store.Hash{byte(i)}] = &download{expiry: time.NewTimer(time.Hour)}
	}
	px.downloads.mu.Unlock()
	storetest.Eventually(t, "told what the upstream says", func() bool {
		_, err := px.cfg.Caches[0].Info(t.Context(), info.Path.HashPart())
		return err == nil
	})
	if got := ask(); got != wire.VerdictNo {
		t.Errorf("the answer is %d, want %d", got, wire.VerdictNo)
	}
	px.downloads.mu.Lock()
	clear(px.downloads.running)
	px.downloads.mu.Unlock()
	if got := ask(); got != wire.VerdictYes {
		t.Errorf("the answer once there is room is %d, want %d", got, wire.VerdictYes)
	}
}

func TestPeerWithoutQuestionsLeftGetsNoAnswer(t *testing.T) {
	signer := trusttest.NewSigner(t)
	info, _ := signer.Sign(t, "wanted", randomNAR(1000))
	px, _, _ := newProxyOf(t, signer, info, nil)
	c := px.cfg.Server.ClientOn(nobodyConn{})
	answer := func() wire.Verdict {
		var b bytes.Buffer
		bw := bufio.NewWriter(&b)
		r := wire.Request{Kind: wire.AskUpstream, HashParts: []store.HashPart{info.Path.HashPart()}}
		if err := px.AnswerUpstream(t.Context(), c, bw, r); err != nil {
			t.Fatal(err)
		}
		bw.Flush()
		return wire.Verdict(b.Bytes()[0])
	}
	storetest.Eventually(t, "told what the upstream says", func() bool { return answer() == wire.VerdictYes })
	for c.SpendProxied() {
	}
	if got := answer(); got != wire.VerdictNo {
		t.Errorf("the answer to one question too many is %d, want %d", got, wire.VerdictNo)
	}
}

// until asks until the answer is no longer that it is under way, and returns it.
func until(t *testing.T, ask func() wire.Verdict) wire.Verdict {
	t.Helper()
	for limit := time.Now().Add(storetest.AtMost(10 * time.Second)); ; time.Sleep(time.Millisecond) {
		if got := ask(); got != wire.VerdictYes || time.Now().After(limit) {
			return got
		}
	}
}

// All machines of a LAN that begins to build ask the assignee at once.
func TestConcurrentAskersAreAllServed(t *testing.T) {
	signer := trusttest.NewSigner(t)
	nar := randomNAR(4 * store.BlockSize)
	info, _ := signer.Sign(t, "wanted", nar)
	var sent atomic.Int32
	slow := make(chan struct{})
	_, sp, ask := newProxyOf(t, signer, info, func(w http.ResponseWriter, _ *http.Request) {
		sent.Add(1)
		<-slow
		w.Write(nar)
	})
	var all sync.WaitGroup
	at := make(chan struct{})
	for range 8 {
		all.Go(func() {
			<-at
			if got := ask(); got != wire.VerdictYes {
				t.Errorf("the answer is %d, want %d", got, wire.VerdictYes)
			}
		})
	}
	close(at)
	all.Wait()
	close(slow)
	if got := until(t, ask); got != wire.VerdictHere {
		t.Fatalf("the answer is %d, want %d", got, wire.VerdictHere)
	}
	spooled, ok := sp.Get(info.NarHash)
	if !ok {
		t.Fatal("it is not in the spool")
	}
	spooled.Used() // this machine's own Nix has it, but not in its store yet
	spooled.Close()
	if got := ask(); got != wire.VerdictHere {
		t.Errorf("the answer about what Nix has just taken is %d, want %d", got, wire.VerdictHere)
	}
	if got := sent.Load(); got != 1 {
		t.Errorf("the archive was asked for %d times, want once", got)
	}
}

func TestWhatCouldNotBeFetchedIsNotTriedAgainAtOnce(t *testing.T) {
	signer := trusttest.NewSigner(t)
	info, _ := signer.Sign(t, "wanted", randomNAR(4*store.BlockSize))
	var asked atomic.Int32
	var stuck sync.Mutex
	px, _, ask := newProxyOf(t, signer, info, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		stuck.Lock()
		defer stuck.Unlock()
		http.NotFound(w, r)
	})
	first := func() wire.Verdict {
		stuck.Lock()
		defer stuck.Unlock()
		return ask()
	}
	if got := first(); got != wire.VerdictYes {
		t.Fatalf("the answer is %d, want %d", got, wire.VerdictYes)
	}
	if got := until(t, ask); got != wire.VerdictNo {
		t.Fatalf("the answer is %d, want %d", got, wire.VerdictNo)
	}
	before := asked.Load()
	for range 20 {
		if got := ask(); got != wire.VerdictNo {
			t.Errorf("the answer is %d, want %d", got, wire.VerdictNo)
		}
	}
	if got := asked.Load(); got != before {
		t.Errorf("the archive was asked for %d times, and %d times before it failed", got, before)
	}
	px.downloads.failed.Add(info.NarHash, time.Now().Add(-peers.BackoffTime))
	if got := first(); got != wire.VerdictYes {
		t.Errorf("the answer after a while is %d, want %d", got, wire.VerdictYes)
	}
	until(t, ask)
}

func TestBudgetIsNotSpentOnWhatDoesNotFit(t *testing.T) {
	signer := trusttest.NewSigner(t)
	info, _ := signer.Sign(t, "wanted", randomNAR(4*store.BlockSize))
	px, sp, ask := newProxyOf(t, signer, info, http.NotFound)
	draft, err := sp.Create(store.Hash{}, sp.Stats().MaxBytes) // all of the spool
	if err != nil {
		t.Fatal(err)
	}
	defer draft.Discard()
	downloads := px.downloads
	before := downloads.left(time.Now())
	if got := ask(); got != wire.VerdictNo {
		t.Errorf("the answer is %d, want %d", got, wire.VerdictNo)
	}
	storetest.Eventually(t, "with all of the budget, and nothing fetched", func() bool {
		return downloads.left(time.Now()) == before && downloads.total() == 0
	})
	downloads.mu.Lock()
	defer downloads.mu.Unlock()
	for _, own := range downloads.each.Values() {
		if own.spent != 0 {
			t.Errorf("%d bytes of the asker's address were spent, want none", own.spent)
		}
	}
}

func TestDownloadForOthersEndsUnlessItIsRenewed(t *testing.T) {
	s := trusttest.NewSigner(t)
	_, m := s.Sign(t, "wanted", randomNAR(1000))
	synctest.Test(t, func(t *testing.T) {
		b := newDownloads(DefaultBudget)
		ended := make(chan struct{})
		start := time.Now()
		begun := func() bool { return true }
		if mine, _ := b.begin(netip.AddrFrom4([4]byte{192, 0, 2, 1}), m, begun, func() { close(ended) }); !mine {
			t.Fatal("no download")
		}
		time.Sleep(fetch.ProxyExpiry / 2)
		if !b.touch(m.NarHash()) {
			t.Fatal("the download is not there")
		}
		select {
		case <-ended:
		case <-time.After(time.Hour):
		}
		if took := time.Since(start); took != fetch.ProxyExpiry*3/2 {
			t.Errorf("the download ends after %s, want %s: half as long again, as it was asked for meanwhile", took, fetch.ProxyExpiry*3/2)
		}
	})
}

func TestSizesOfDownloadsAreToldRounded(t *testing.T) {
	signer := trusttest.NewSigner(t)
	nar := randomNAR(100_001)
	info, m := signer.Sign(t, "odd", nar)
	px, _, _ := newProxyOf(t, signer, info, func(w http.ResponseWriter, _ *http.Request) { w.Write(nar) })
	sp, err := fetchNow(t.Context(), px, m)
	storetest.Must(t, err)
	defer sp.Close()
	const step = 16 << 10
	u := px.cfg.Caches[0]
	if got := u.Received(); got%step == 0 {
		t.Fatalf("%d bytes received, which says nothing", got)
	}
	if got := px.upstreams.downloaded(); got == 0 || got%step != 0 || got > u.Received() {
		t.Errorf("downloaded = %d of %d bytes, want a multiple of %d", got, u.Received(), step)
	}
}
