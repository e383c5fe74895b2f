package serve

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"narbor/p2p/p2ptest"
	"narbor/p2p/wire"
	"narbor/store"
	"narbor/trust/trusttest"
)

func TestTurnsAreFair(t *testing.T) { synctest.Test(t, testTurnsAreFair) }

func testTurnsAreFair(t *testing.T) {
	turns := newTurns(8, 6, 2)
	var served [4]atomic.Int64
	var all sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	wants := func(which int, who Asker) {
		all.Go(func() {
			for {
				done, err := turns.take(ctx, who)
				if err != nil {
					return
				}
				if turns.held() > 8 {
					t.Errorf("%d turns are taken, want 8 at most", turns.held())
				}
				served[which].Add(1)
				time.Sleep(100 * time.Microsecond) // simulated work
				done()
			}
		})
	}
	one, two := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	for i := range 32 * 8 {
		wants(0, Asker{one, peer.ID(fmt.Sprint("greedy", i%32))})
	}
	for range 16 {
		wants(1, Asker{one, "many streams"})
		wants(2, Asker{two, "honest"})
		wants(3, Asker{two, "its twin"})
	}
	for served[0].Load()+served[1].Load()+served[2].Load()+served[3].Load() < 4000 {
		time.Sleep(time.Millisecond)
	}
	cancel()
	all.Wait()
	greedy, many, honest, twin := served[0].Load(), served[1].Load(), served[2].Load(), served[3].Load()
	t.Logf("turns of 32 greedy peers and of another at their address: %d, %d; of two honest ones at another: %d, %d", greedy, many, honest,
		twin)
	if other := greedy + many; honest+twin < other*4/5 {
		t.Errorf("one address had %d turns, the other %d, want as many", other, honest+twin)
	}
	if each := greedy / 32; many > 2*each || many < each/2 {
		t.Errorf("of one address one peer had %d turns, others %d, want as many", many, each)
	}
	if honest < twin*4/5 || twin < honest*4/5 {
		t.Errorf("two peers had %d and %d turns, want as many", honest, twin)
	}
	if turns.held() != 0 || len(turns.addrs) != 0 {
		t.Errorf("%d turns are taken and %d addresses known at the end, want none", turns.held(), len(turns.addrs))
	}
}

func TestSomeTurnsForEachPeer(t *testing.T) { synctest.Test(t, testSomeTurnsForEachPeer) }

func testSomeTurnsForEachPeer(t *testing.T) {
	turns := newTurns(8, 3, 2)
	soon := func(who Asker) (func(), error) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		return turns.take(ctx, who)
	}
	a := netip.MustParseAddr("10.0.0.1")
	for _, c := range []struct {
		id   peer.ID
		want bool
	}{{"a", true}, {"a", true}, {"a", false}, {"b", true}, {"b", false}, {"c", false}} {
		done, err := soon(Asker{a, c.id})
		if (err == nil) != c.want {
			t.Errorf("take for %s = %v, want a turn: %v", c.id, err, c.want)
		}
		if done != nil {
			defer done()
		}
	}
	if done, err := soon(Asker{netip.MustParseAddr("10.0.0.2"), "d"}); err != nil {
		t.Errorf("take from another address = %v", err)
	} else {
		done()
	}
}

// A slowSource needs a millisecond for each read, as a disk does.
type slowSource struct{ store.Source }

func (s slowSource) NAR(ctx context.Context, info store.Info) (store.NAR, error) {
	nar, err := s.Source.NAR(ctx, info)
	return slowNAR{nar}, err
}

type slowNAR struct{ store.NAR }

func (n slowNAR) ReadAt(p []byte, off int64) (int, error) {
	time.Sleep(time.Millisecond)
	return n.NAR.ReadAt(p, off)
}

// Thirty-two peers at one address request blocks without end, each on several streams. A peer at another address always
// has as many requests as are served at once for one peer.
func TestGreedyPeersLeaveOthersTheirShare(t *testing.T) {
	synctest.Test(t, testGreedyPeersLeaveOthersTheirShare)
}

func testGreedyPeersLeaveOthersTheirShare(t *testing.T) {
	signer, nar, mem := trusttest.NewSigner(t), p2ptest.Random(1000), new(store.Mem)
	info, _ := signer.Sign(t, "shared", nar)
	mem.Add(info, nar)
	srv := newTestServer(t, signer.Keys, slowSource{mem})
	var greedy, honest atomic.Int64
	var all sync.WaitGroup
	var streams []io.Closer
	download := func(id peer.ID, addr string, got *atomic.Int64) {
		s := dial(t, srv, id, addr)
		streams = append(streams, s)
		all.Go(func() {
			for request := blockRequest(info, 0).Append(nil); ; {
				if _, err := s.Write(request); err != nil {
					return
				}
			}
		})
		all.Go(func() {
			br, block := bufio.NewReader(s), make([]byte, len(nar))
			for {
				if _, _, err := wire.ReadBlock(br, block); err != nil {
					return
				}
				got.Add(1)
			}
		})
	}
	for i := range 32 {
		for range 4 {
			download(peer.ID(fmt.Sprint("greedy ", i)), "127.0.0.1", &greedy)
		}
	}
	time.Sleep(100 * time.Millisecond)
	for range 16 { // as many NARs as Nix fetches at once
		download("honest", "::1", &honest)
	}
	time.Sleep(100 * time.Millisecond) // until all its streams are in use
	early, before := honest.Load(), greedy.Load()
	time.Sleep(time.Second)
	h, others := honest.Load()-early, greedy.Load()-before
	for _, s := range streams {
		s.Close()
	}
	all.Wait()
	t.Logf("while it got %d blocks, 32 greedy peers at one other address got %d", h, others)
	if most := (maxUploads - maxUploadsPeer) / maxUploadsPeer * h; others > most+most/10 {
		t.Errorf("32 greedy peers at one address got %d blocks while another got %d, want about %d", others, h, most)
	}
}

// Peers at one address open all the streams that they can, and ask nothing. Another is answered all the same.
func TestStreamsOfOneAddressAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, info := sharing(t, p2ptest.Random(100))
		for i := range maxAddrStreams/maxPeerStreams + 8 {
			for range maxPeerStreams {
				go dial(t, srv, peer.ID(fmt.Sprint("silent ", i)), "127.0.0.1").Write([]byte{100}) // the beginning of a request
			}
		}
		synctest.Wait()
		if held := srv.streams.held(); held != maxAddrStreams {
			t.Errorf("%d streams are open, want %d from one address", held, maxAddrStreams)
		}
		s := dial(t, srv, "other", "::1")
		send(s, blockRequest(info, 0))
		if _, _, err := wire.ReadBlock(bufio.NewReader(s), make([]byte, info.NarSize)); err != nil {
			t.Errorf("a block for a machine at another address = %v", err)
		}
	})
}

// A peer that reads nothing keeps its turns until serveStall. Many invented peers are one machine.
func TestInventedPeersDelayNoOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, info := sharing(t, p2ptest.Random(4*store.BlockSize))
		for i := range maxServing/maxServingPeer + 2 {
			for range maxServingPeer {
				send(dial(t, srv, peer.ID(fmt.Sprint("invented ", i)), "127.0.0.1"), blockRequest(info, 0), blockRequest(info, 0))
			}
		}
		synctest.Wait()
		if held := srv.sending.held(); held != maxServingAddr {
			t.Errorf("%d turns are taken, want %d for one address", held, maxServingAddr)
		}
		s := dial(t, srv, "other", "::1")
		send(s, blockRequest(info, 1))
		if _, _, err := wire.ReadBlock(bufio.NewReader(s), make([]byte, store.BlockSize)); err != nil {
			t.Errorf("a block for a machine at another address = %v", err)
		}
	})
}

func TestClaimsDoNotWaitForBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, info := sharing(t, p2ptest.Random(store.BlockSize))
		for range 2 * maxServingPeer {
			send(dial(t, srv, "asker", "127.0.0.1"), blockRequest(info, 0), blockRequest(info, 0))
		}
		synctest.Wait()
		if held := srv.sending.held(); held != maxServingPeer {
			t.Errorf("%d turns are taken, want %d", held, maxServingPeer)
		}
		s := dial(t, srv, "asker", "127.0.0.1")
		send(s, wire.Request{Kind: wire.AskClaims, HashParts: []store.HashPart{info.Path.HashPart()}})
		if text, _, err := wire.ReadClaim(bufio.NewReader(s)); err != nil || text == "" {
			t.Errorf("readClaim = %q, %v, want the claim", text, err)
		}
	})
}

// Blocks for two neighbours together are sent at the rate that the user allows, and claims do not wait.
func TestUploadRateBoundsBlocks(t *testing.T) {
	const rate, blocks = 1 << 20, 20
	srv, info := sharing(t, p2ptest.Random(2*store.BlockSize))
	srv.serving = newServing(rate)
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		ask := func(r wire.Request) int {
			var out bytes.Buffer
			bw := bufio.NewWriter(&out)
			if err := srv.answer(t.Context(), newClient(srv, "asker"), answers{bw, new(toldParts)}, r); err != nil {
				t.Errorf("answer = %v", err)
			}
			bw.Flush()
			return out.Len()
		}
		var all sync.WaitGroup
		for range 2 {
			all.Go(func() {
				for range blocks / 2 {
					if got := ask(blockRequest(info, 0)); got < store.BlockSize {
						t.Errorf("the answer has %d bytes, want a block", got)
					}
				}
			})
		}
		time.Sleep(time.Second)
		asked := time.Now()
		if got := ask(wire.Request{Kind: wire.AskClaims, HashParts: []store.HashPart{info.Path.HashPart()}}); got < 100 ||
			time.Since(asked) > 0 {
			t.Errorf("a claim of %d bytes after %v, want one at once", got, time.Since(asked))
		}
		all.Wait()
		// The first block goes at once.
		if got, want := time.Since(start), time.Duration(blocks-1)*store.BlockSize*time.Second/rate; got < want || got > want+time.Second {
			t.Errorf("%d blocks took %v, want %v", blocks, got, want)
		}
	})
}
