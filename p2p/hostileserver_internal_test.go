package p2p

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"narbor/p2p/fetch"
	"narbor/p2p/p2ptest"
	"narbor/p2p/peers"
	"narbor/p2p/wire"
	"narbor/store"
	"narbor/trust"
	"narbor/trust/trusttest"
)

var errEnd = errors.New("end of the stream") // makes a rogue reset

// ghost is a neighbour that has no connection any more and is still listed as a holder.
func ghost(t testing.TB, n *Node) *peers.Neighbour {
	id, err := peer.IDFromPrivateKey(p2ptest.NewIdentity(t))
	if err != nil {
		t.Fatal(err)
	}
	return peers.NewNeighbour(n.lan.Host(), id, n.greeter.Group.Protocol(), n.ledger)
}

// knownHolders answers that a NAR has certain holders.
type knownHolders struct {
	fetch.Swarm
	holders []fetch.Holder
}

func (k knownHolders) Holders(context.Context, trust.Mapping, bool) []fetch.Holder { return k.holders }

func TestDepartedHoldersDelayNoFetch(t *testing.T) {
	s := trusttest.NewSigner(t)
	nar := randomNAR(1000)
	info, m := s.Sign(t, "small", nar)
	g := (&rogue{info: info, nar: nar}).start(t)
	n, _ := runNode(t, s, nil, g)
	honest := n.neighbours.All()[0]
	honest.Measured(time.Second, store.BlockSize) // the others look faster and are asked first
	holders := []fetch.Holder{{Neighbour: honest}}
	for range fetch.MaxRequests + 1 {
		holders = append(holders, fetch.Holder{Neighbour: ghost(t, n)})
	}
	draft, err := n.cfg.Spool.Create(m.NarHash(), m.NarSize())
	if err != nil {
		t.Fatal(err)
	}
	defer draft.Discard()
	ctx, cancel := context.WithTimeout(t.Context(), atMost(20*time.Second))
	defer cancel()
	start := time.Now()
	of := *n.downloads.Sessions
	of.Swarm = knownHolders{of.Swarm, holders}
	sp, err := of.NewSession(m, draft, m, false).Fetch(ctx, false, false)
	if err != nil {
		t.Fatalf("fetch = %v, want the NAR", err)
	}
	sp.Close()
	if d := time.Since(start); d >= 3*time.Second { // which is how long opening a stream may take
		t.Errorf("it took %v", d)
	}
}

// lateHolders has holders only if all neighbours are asked again.
type lateHolders struct{ knownHolders }

func (l lateHolders) Holders(_ context.Context, _ trust.Mapping, again bool) []fetch.Holder {
	if !again {
		return nil
	}
	return l.holders
}

// Neighbours are asked once more before a NAR is given up because the holders that are known are none to fetch from.
func TestNeighboursAreAskedAgainBeforeANARIsNotFound(t *testing.T) {
	s := trusttest.NewSigner(t)
	nar := randomNAR(1000)
	info, m := s.Sign(t, "small", nar)
	n, _ := runNode(t, s, nil, (&rogue{info: info, nar: nar}).start(t))
	draft, err := n.cfg.Spool.Create(m.NarHash(), m.NarSize())
	if err != nil {
		t.Fatal(err)
	}
	defer draft.Discard()
	of := *n.downloads.Sessions
	of.Swarm = lateHolders{knownHolders{of.Swarm, []fetch.Holder{{Neighbour: n.neighbours.All()[0]}}}}
	sp, err := of.NewSession(m, draft, m, false).Fetch(t.Context(), false, false)
	if err != nil {
		t.Fatalf("fetch = %v, want the NAR", err)
	}
	sp.Close()
}

// trickle sends a block a byte at a time, for ever.
func trickle(s network.Stream, _ int, b []byte) error {
	head := []byte{statusRaw, byte(len(b)&0x7f | 0x80), byte(len(b) >> 7)}
	for i := 0; ; i++ {
		p := []byte{0}
		if i < len(head) {
			p[0] = head[i]
		}
		if _, err := s.Write(p); err != nil {
			return err
		}
		s.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if _, err := s.Read(p); !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
	}
}

func TestTricklingHoldersAreOvertaken(t *testing.T) {
	s := trusttest.NewSigner(t)
	nar := randomNAR(1000)
	info, m := s.Sign(t, "small", nar)
	honest := (&rogue{info: info, nar: nar}).start(t)
	rogues := []*rogue{honest}
	for range fetch.MaxRequests {
		rogues = append(rogues, (&rogue{info: info, nar: nar, block: trickle}).start(t))
	}
	n, _ := runNode(t, s, nil, rogues...)
	for _, nb := range n.neighbours.All() {
		if nb.ID == honest.ID() {
			nb.Measured(100*time.Millisecond, store.BlockSize) // the others are asked first
		}
	}
	fetchAll(t, n, m, nar)
}

func TestTrickledBlockEndsInTime(t *testing.T) {
	s := trusttest.NewSigner(t)
	nar := randomNAR(1000)
	info, _ := s.Sign(t, "small", nar)
	g := (&rogue{info: info, nar: nar, block: trickle}).start(t)
	n, _ := runNode(t, s, nil, g)
	ex, err := n.neighbours.All()[0].Open(t.Context(), peers.ReadStall)
	if err != nil {
		t.Fatal(err)
	}
	defer ex.Reset()
	if err := ex.Send(wire.Request{Kind: wire.AskBlock, HashParts: []store.HashPart{info.Path.HashPart()}, NAR: info.NarHash}); err != nil {
		t.Fatal(err)
	}
	ex.Until = time.Now().Add(300 * time.Millisecond)
	ended := make(chan error, 1)
	go func() {
		_, _, err := wire.ReadBlock(ex.Reader, make([]byte, len(nar)))
		ended <- err
	}()
	select {
	case err := <-ended:
		if err == nil {
			t.Error("readBlock = nil, want an error after 300 ms")
		}
	case <-time.After(20 * time.Second): // the whole block takes 100 s
		t.Error("readBlock waits for a block that trickles")
	}
}

func TestOnlyHolderMayFailOnce(t *testing.T) {
	for name, fail := range map[string]func(s network.Stream, b []byte) error{
		"reset mid block": func(s network.Stream, b []byte) error {
			s.Write(append(binary.AppendUvarint([]byte{statusRaw}, uint64(len(b))), b[:len(b)/2]...))
			return errEnd
		},
		"early end": func(s network.Stream, b []byte) error {
			s.Write([]byte{statusRaw, 0xff})
			s.CloseWrite()
			return nil
		},
		"not here, this time": func(s network.Stream, b []byte) error {
			_, err := s.Write([]byte{statusGone})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := trusttest.NewSigner(t)
			nar := randomNAR(3*store.BlockSize + 5)
			info, m := s.Sign(t, "big", nar)
			var blocks atomic.Int64
			g := (&rogue{info: info, nar: nar, block: func(s network.Stream, _ int, b []byte) error {
				if blocks.Add(1) == 2 {
					return fail(s, b)
				}
				return writeRaw(s, b)
			}}).start(t)
			n, _ := runNode(t, s, nil, g)
			fetchAll(t, n, m, nar)
			if got := strikesOf(n, g); got != 0 {
				t.Errorf("it has %d strikes for that", got)
			}
		})
	}
}

func TestBrokenAnswersCostTheirSender(t *testing.T) {
	write := func(p ...byte) func(network.Stream, int, []byte) error {
		return func(s network.Stream, _ int, _ []byte) error {
			_, err := s.Write(p)
			return err
		}
	}
	for name, c := range map[string]struct {
		block   func(s network.Stream, i int, b []byte) error
		strikes int64
	}{
		"unknown status": {write(9), 1},
		"wrong length":   {write(statusRaw, 5, 1, 2, 3, 4, 5), 1},
		"endless length": {write(statusRaw, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), 1},
		"bomb":           {write(statusZstd, 3, 1, 2, 3), 1},
		"gone":           {write(statusGone), 0},
		"reset":          {func(network.Stream, int, []byte) error { return errEnd }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := trusttest.NewSigner(t)
			nar := randomNAR(1000)
			info, m := s.Sign(t, "small", nar)
			bad := (&rogue{info: info, nar: nar, block: c.block}).start(t)
			var n *Node
			running := make(chan struct{})
			honest := (&rogue{info: info, nar: nar, block: func(s network.Stream, _ int, b []byte) error {
				<-running
				for limit := time.Now().Add(atMost(4 * time.Second)); strikesOf(n, bad) < c.strikes && time.Now().Before(limit); {
					time.Sleep(time.Millisecond) // the end of the download would cut the bad one short
				}
				return writeRaw(s, b)
			}}).start(t)
			n, _ = runNode(t, s, nil, honest, bad)
			close(running)
			for _, nb := range n.neighbours.All() {
				if nb.ID == honest.ID() {
					nb.Measured(time.Second, store.BlockSize) // the other one is asked first
				}
			}
			fetchAll(t, n, m, nar)
			if got := strikesOf(n, bad); got != c.strikes {
				t.Errorf("it has %d strikes, want %d", got, c.strikes)
			}
			if got := strikesOf(n, honest); got != 0 {
				t.Errorf("the honest one has %d strikes", got)
			}
		})
	}
}

func TestStreamsAreKeptBetweenNARs(t *testing.T) {
	s := trusttest.NewSigner(t)
	nar := randomNAR(1000)
	info, m := s.Sign(t, "small", nar)
	g := (&rogue{info: info, nar: nar}).start(t)
	n, _ := runNode(t, s, nil, g)
	for range 50 {
		fetchAll(t, n, m, nar)
		sp, ok := n.cfg.Spool.Get(m.NarHash())
		if !ok {
			t.Fatal("nothing in the spool")
		}
		sp.Used()
		sp.Close()
	}
	if got := g.streams.Load(); got > 3 { // one for claims, one for blocks, and one for luck
		t.Errorf("50 fetches took %d streams", got)
	}
}

func TestSilentNeighbourIsWaitedForAgainOnANewStream(t *testing.T) {
	t.Parallel()
	s := trusttest.NewSigner(t)
	info, _ := s.Sign(t, "small", randomNAR(1000))
	g := &rogue{info: info}
	var asked atomic.Int64
	ended := make(chan struct{})
	g.claims = func(s network.Stream, r wire.Request) error {
		if asked.Add(1) > 1 {
			return g.writeClaims(s, r)
		}
		io.Copy(io.Discard, s) // until the other side gives up
		close(ended)
		return errEnd
	}
	n, _ := runNode(t, s, nil, g.start(t))
	hp := info.Path.HashPart()
	if _, err := n.Lookup(t.Context(), hp); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("Lookup at a silent peer = %v, want ErrNotFound", err)
	}
	<-ended
	find(t, n, hp) // the first questions may come before this side has noticed
}

func TestWrongSizeOfAContentAddressedPathHurtsItsSenderAlone(t *testing.T) {
	s := trusttest.NewSigner(t)
	nar := randomNAR(store.BlockSize + 1000)
	wrong := trusttest.SourceClaim(t, "source", nar)
	path := wrong.Path
	wrong.NarSize--
	info, m := s.SignPath(t, path, nar)
	heard := make(chan struct{})
	liar := (&rogue{info: wrong, nar: nar[:len(nar)-1]}).start(t)
	honest := &rogue{info: info, nar: nar}
	honest.claims = func(s network.Stream, r wire.Request) error {
		<-heard
		return honest.writeClaims(s, r)
	}
	n, _ := runNode(t, s, nil, liar, honest.start(t))
	believed, err := n.Lookup(t.Context(), path.HashPart())
	for limit := time.Now().Add(atMost(20 * time.Second)); err != nil && time.Now().Before(limit); { // a busy machine answers late
		believed, err = n.Lookup(t.Context(), path.HashPart())
	}
	if err != nil || believed.NarSize() != wrong.NarSize {
		t.Fatalf("Lookup = %v, %v, want the liar's: it came first", believed, err)
	}
	close(heard)
	if sp, err := n.Fetch(t.Context(), believed); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Fetch(wrong size) = %v, %v, want ErrNotFound", sp, err)
	}
	fetchAll(t, n, m, nar)
	if got := strikesOf(n, honest); got != 0 {
		t.Errorf("the honest one has %d strikes", got)
	}
	if n.ledger.TallyOf(liar.ID()).CountWrong(time.Now()) == 0 {
		t.Error("the liar has sent no wrong NAR")
	}
}
