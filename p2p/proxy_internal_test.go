package p2p

import (
	"bufio"
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"narbor/p2p/p2ptest"
	"narbor/p2p/peers"
	"narbor/p2p/transport"
	"narbor/p2p/wire"
	"narbor/store"
	"narbor/store/spool"
	"narbor/store/storetest"
	"narbor/store/upstream"
	"narbor/trust"
	"narbor/trust/trusttest"
)

func TestHalfOfWhatIsLeftIsForOneAddress(t *testing.T) {
	b := newProxyDownloads(1000)
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

// Two peers at one address ask for a path each, of which a third of the budget takes one: only one of them gets it.
func TestOneAddressHasOneShareOfTheBudget(t *testing.T) {
	s := trusttest.NewSigner(t)
	nar := randomNAR(2 * store.BlockSize)
	first, _ := s.Sign(t, "first", nar)
	nar2 := bytes.Clone(nar)
	nar2[len(nar2)/2] ^= 1
	second, _ := s.Sign(t, "second", nar2)
	web, more := newOneCache(t, first, nar), newOneCache(t, second, nar2)
	other, _ := s.Sign(t, "other", nar)
	g, again := (&rogue{info: other, nar: nar}).start(t), (&rogue{info: other, nar: nar}).start(t)
	n, _ := runNodeAs(t, s, func(cfg *Config) {
		cfg.Sharing.Sources, cfg.Upstreams.Caches = []store.Source{new(store.Mem)}, []*upstream.Cache{web.open(t, ""), more.open(t, "")}
		cfg.Upstreams.Budget = 3 * first.NarSize
	})
	if _, have := g.begs(t, n, first); have != wire.VerdictYes {
		t.Errorf("the answer to the first is %d, want %d", have, wire.VerdictYes)
	}
	if _, have := again.begs(t, n, second); have != wire.VerdictNo {
		t.Errorf("the answer to a second one at the same address is %d, want %d", have, wire.VerdictNo)
	}
	n.proxy.jobs.mu.Lock()
	defer n.proxy.jobs.mu.Unlock()
	if !n.proxy.jobs.spend(netip.AddrFrom4([4]byte{10, 0, 0, 1}), second.NarSize, time.Now()) {
		t.Error("a peer at another address would not get it")
	}
}

func TestWhatMayNotBeSharedIsNotFetchedForOthers(t *testing.T) {
	nar := randomNAR(store.BlockSize)
	mine, theirs := trusttest.NewSigner(t), trusttest.NewSigner(t)
	for _, shared := range []bool{true, false} {
		info, m := mine.Sign(t, "own", nar)
		spool, err := spool.Open(spool.Config{Dir: t.TempDir(), MinFree: -1})
		if err != nil {
			t.Fatal(err)
		}
		defer spool.Close()
		up, err := upstream.Open(upstream.Config{URL: "http://127.0.0.1:1", Agent: "test"})
		if err != nil {
			t.Fatal(err)
		}
		defer up.Close()
		cfg := Config{Host: transport.Config{Identity: p2ptest.NewIdentity(t)}, Trusted: mine.Keys,
			Sharing:   SharingConfig{Policy: trust.Policy{Keys: mine.Keys}, Sources: []store.Source{new(store.Mem)}},
			Spool:     spool,
			Upstreams: UpstreamConfig{Caches: []*upstream.Cache{up}}}
		if !shared {
			cfg.Sharing.Keys = theirs.Keys
		}
		n, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer n.lan.Host().Close()
		ask := func() wire.Verdict {
			var b bytes.Buffer
			bw := bufio.NewWriter(&b)
			r := wire.Request{Kind: wire.AskFetch, HashParts: []store.HashPart{info.Path.HashPart()}, NAR: info.NarHash}
			if err := n.proxy.AnswerFetch(t.Context(), n.server.ClientOn(nobodyConn{}), bw, r); err != nil {
				t.Fatal(err)
			}
			bw.Flush()
			return wire.Verdict(b.Bytes()[0])
		}
		want := map[bool][2]wire.Verdict{true: {wire.VerdictYes, wire.VerdictHere}, false: {wire.VerdictNo, wire.VerdictNo}}[shared]
		f, err := n.downloads.open(m)
		if err != nil {
			t.Fatal(err)
		}
		if got := ask(); got != want[0] {
			t.Errorf("shared %v: the answer about a NAR that is arriving is %d, want %d", shared, got, want[0])
		}
		if _, err := f.draft.WriteAt(nar, 0); err != nil {
			t.Fatal(err)
		}
		sp, err := f.draft.Commit(nil)
		if err != nil {
			t.Fatal(err)
		}
		defer sp.Close()
		n.downloads.add(m)
		n.downloads.end(f)
		if got := ask(); got != want[1] {
			t.Errorf("shared %v: the answer about a NAR in the spool is %d, want %d", shared, got, want[1])
		}
	}
}

// A nobodyConn is a connection of a peer that is no neighbour.
type nobodyConn struct{ network.Conn }

func (nobodyConn) RemotePeer() peer.ID           { return "asker" }
func (nobodyConn) RemoteMultiaddr() ma.Multiaddr { return ma.StringCast("/ip4/192.0.2.1/tcp/1") }

// helper returns a node that has these sources and fetches for others from an upstream which has one path, and a function
// that asks it to.
func helper(t *testing.T, signer trusttest.Signer, info store.Info, archive http.HandlerFunc,
	sources ...store.Source) (*Node, func() wire.Verdict) {
	t.Helper()
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, ".narinfo") {
			fmt.Fprintf(w, "%sURL: nar/x\nCompression: none\n", info)
			return
		}
		archive(w, r)
	}))
	t.Cleanup(web.Close)
	spool, err := spool.Open(spool.Config{Dir: t.TempDir(), MinFree: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { spool.Close() })
	up, err := upstream.Open(upstream.Config{URL: web.URL, Agent: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { up.Close() })
	n, err := New(Config{Host: transport.Config{Identity: p2ptest.NewIdentity(t)}, Trusted: signer.Keys,
		Sharing:   SharingConfig{Policy: trust.Policy{Keys: signer.Keys}, Sources: append(sources, new(store.Mem))},
		Spool:     spool,
		Upstreams: UpstreamConfig{Caches: []*upstream.Cache{up}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.lan.Host().Close() })
	return n, func() wire.Verdict {
		var b bytes.Buffer
		bw := bufio.NewWriter(&b)
		r := wire.Request{Kind: wire.AskFetch, HashParts: []store.HashPart{info.Path.HashPart()}, NAR: info.NarHash}
		if err := n.proxy.AnswerFetch(t.Context(), n.server.ClientOn(nobodyConn{}), bw, r); err != nil {
			t.Error(err)
		}
		bw.Flush()
		return wire.Verdict(b.Bytes()[0])
	}
}

func TestPeerWithoutQuestionsLeftGetsNoAnswer(t *testing.T) {
	signer := trusttest.NewSigner(t)
	info, _ := signer.Sign(t, "wanted", randomNAR(1000))
	n, _ := helper(t, signer, info, nil)
	c := n.server.ClientOn(nobodyConn{})
	answer := func() wire.Verdict {
		var b bytes.Buffer
		bw := bufio.NewWriter(&b)
		r := wire.Request{Kind: wire.AskUpstream, HashParts: []store.HashPart{info.Path.HashPart()}}
		if err := n.proxy.AnswerUpstream(t.Context(), c, bw, r); err != nil {
			t.Fatal(err)
		}
		bw.Flush()
		return wire.Verdict(b.Bytes()[0])
	}
	eventually(t, "told what the upstream says", func() bool { return answer() == wire.VerdictYes })
	for c.MayHelp() {
	}
	if got := answer(); got != wire.VerdictNo {
		t.Errorf("the answer to one question too many is %d, want %d", got, wire.VerdictNo)
	}
}

// until asks until the answer is no longer that it is under way, and returns it.
func until(t *testing.T, ask func() wire.Verdict) wire.Verdict {
	t.Helper()
	for limit := time.Now().Add(atMost(10 * time.Second)); ; time.Sleep(time.Millisecond) {
		if got := ask(); got != wire.VerdictYes || time.Now().After(limit) {
			return got
		}
	}
}

// All machines of a LAN that begins to build ask the elected one at once.
func TestConcurrentAskersAreAllHelped(t *testing.T) {
	signer := trusttest.NewSigner(t)
	nar := randomNAR(4 * store.BlockSize)
	info, _ := signer.Sign(t, "wanted", nar)
	var sent atomic.Int32
	slow := make(chan struct{})
	n, ask := helper(t, signer, info, func(w http.ResponseWriter, _ *http.Request) {
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
	sp, ok := n.cfg.Spool.Get(info.NarHash)
	if !ok {
		t.Fatal("it is not in the spool")
	}
	sp.Used() // this machine's own Nix has it, but not in its store yet
	sp.Close()
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
	n, ask := helper(t, signer, info, func(w http.ResponseWriter, r *http.Request) {
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
	n.proxy.jobs.failed.Add(info.NarHash, time.Now().Add(-peers.BackoffTime))
	if got := first(); got != wire.VerdictYes {
		t.Errorf("the answer after a while is %d, want %d", got, wire.VerdictYes)
	}
	until(t, ask)
}

func TestBudgetIsNotSpentOnWhatDoesNotFit(t *testing.T) {
	signer := trusttest.NewSigner(t)
	info, _ := signer.Sign(t, "wanted", randomNAR(4*store.BlockSize))
	n, ask := helper(t, signer, info, http.NotFound)
	draft, err := n.cfg.Spool.Create(store.Hash{}, n.cfg.Spool.Stats().MaxBytes) // all of the spool
	if err != nil {
		t.Fatal(err)
	}
	defer draft.Discard()
	jobs := n.proxy.jobs
	before := jobs.left(time.Now())
	if got := ask(); got != wire.VerdictNo {
		t.Errorf("the answer is %d, want %d", got, wire.VerdictNo)
	}
	storetest.Eventually(t, "with all of the budget, and nothing fetched", func() bool {
		return jobs.left(time.Now()) == before && jobs.total() == 0
	})
	jobs.mu.Lock()
	defer jobs.mu.Unlock()
	for _, own := range jobs.each.Values() {
		if own.spent != 0 {
			t.Errorf("%d bytes of the asker's address were spent, want none", own.spent)
		}
	}
}
