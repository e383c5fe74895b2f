package p2p

import (
	"bufio"
	"bytes"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"narbor/store"
)

func TestOneHalfOfTheBudgetIsForOneNeighbour(t *testing.T) {
	b := newBehalf(1000)
	now := time.Now()
	for _, tt := range []struct {
		who   string
		bytes int64
		want  bool
	}{{"a", 400, true}, {"a", 200, false}, {"a", 100, true}, {"a", 1, false}, {"b", 500, true}, {"c", 1, false}} {
		if got := b.spend(peer.ID(tt.who), tt.bytes, now); got != tt.want {
			t.Errorf("Spend(%s, %d) = %v, want %v", tt.who, tt.bytes, got, tt.want)
		}
	}
	if !b.spend("c", 400, now.Add(12*time.Hour)) {
		t.Error("half a day later half of it is not there again")
	}
}

func TestWhatMayNotBeSharedIsNotFetchedForOthers(t *testing.T) {
	nar := randomNAR(store.BlockSize)
	mine, theirs := newSigner(t), newSigner(t)
	for _, shared := range []bool{true, false} {
		info, m := mine.sign(t, "own", nar)
		spool, err := store.OpenSpool(store.SpoolConfig{Dir: t.TempDir(), MinFree: -1})
		if err != nil {
			t.Fatal(err)
		}
		defer spool.Close()
		up, err := store.OpenUpstream(store.UpstreamConfig{URL: "http://127.0.0.1:1", Agent: "test"})
		if err != nil {
			t.Fatal(err)
		}
		defer up.Close()
		cfg := Config{Identity: newTestIdentity(t), Trusted: mine.keys, ShareKeys: mine.keys, Spool: spool,
			Share: []store.Source{store.NewMem()}, Upstreams: []*store.Upstream{up}}
		if !shared {
			cfg.ShareKeys = theirs.keys
		}
		n, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer n.lan.Host().Close()
		ask := func() verdict {
			var b bytes.Buffer
			bw := bufio.NewWriter(&b)
			r := request{kind: askFetch, hashParts: []store.HashPart{info.Path.HashPart()}, nar: info.NarHash}
			if err := n.answerFetch(t.Context(), nobodyConn{}, n.tallyOf("asker"), bw, r); err != nil {
				t.Fatal(err)
			}
			bw.Flush()
			return verdict(b.Bytes()[0])
		}
		want := map[bool][2]verdict{true: {verdictYes, verdictHere}, false: {verdictNo, verdictNo}}[shared]
		f, err := n.newFlight(m)
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
		n.fetched.add(m)
		f.landed()
		if got := ask(); got != want[1] {
			t.Errorf("shared %v: the answer about a NAR in the spool is %d, want %d", shared, got, want[1])
		}
	}
}

// A nobodyConn is a connection of a peer that is no neighbour.
type nobodyConn struct{ network.Conn }

func (nobodyConn) RemotePeer() peer.ID { return "asker" }
