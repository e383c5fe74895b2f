package p2p

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"narbor/p2p/ask"
	"narbor/p2p/peers"
	"narbor/store"
	"narbor/store/damage"
	"narbor/trust/trusttest"
)

// wrongToSetAside is the number of paths with wrong NARs that set a peer aside.
const wrongToSetAside = 3

// damagedShare returns so many damaged paths to share, and a sound one, which is the last.
func damagedShare(t testing.TB, s trusttest.Signer, damaged int) (
	src store.Source, infos []store.Info, nars [][]byte, found chan damage.Finding) {
	t.Helper()
	mem := new(store.Mem)
	for i := range damaged + 1 {
		nar := randomNAR(store.BlockSize + 1000*i)
		info, _ := s.Sign(t, fmt.Sprintf("path%d", i), nar)
		infos, nars = append(infos, info), append(nars, nar)
		if i < damaged {
			nar = append([]byte{}, nar...)
			clear(nar[len(nar)/2 : len(nar)/2+100])
		}
		mem.Add(info, nar)
	}
	found = make(chan damage.Finding, 2*damaged)
	d, err := damage.Open("", func(e damage.Finding, sound bool) {
		if !sound {
			found <- e
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { d.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	return d.Guard(mem, "memory", ""), infos, nars, found
}

func TestDamagedSharerIsToldAndStopsOfferingThePath(t *testing.T) {
	s := trusttest.NewSigner(t)
	const damaged = 4 // more than a liar may tell lies
	src, infos, nars, found := damagedShare(t, s, damaged)
	sharer, _ := runNode(t, s, []store.Source{src})
	asker := (&rogue{}).start(t)
	n, _ := runNode(t, s, nil, &rogue{Host: sharer.lan.Host()})
	for i, info := range infos[:damaged] {
		m, err := s.Keys.Check(info)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // questions about one path count once
			if sp, err := n.Fetch(t.Context(), m); !errors.Is(err, store.ErrNotFound) {
				t.Fatalf("Fetch(%s) = %v, %v, want ErrNotFound", info.Path, sp, err)
			}
		}
		if i+1 >= wrongToSetAside {
			break
		}
		select {
		case e := <-found:
			if e.Path != info.Path.String() || !strings.Contains(e.Reason, "hash") {
				t.Errorf("the sharer finds %+v, want %s", e, info.Path)
			}
		case <-time.After(atMost(10 * time.Second)):
			t.Fatal("the sharer was not told, or has not checked the path")
		}
		if claims, _ := shared(t, sharer, asker, info.Path.HashPart()); claims[0] != "" {
			t.Errorf("the sharer still offers %s:\n%s", info.Path, claims[0])
		}
	}
	st := n.Status()
	if len(st.Banned) != 0 || len(st.Neighbours) != 1 || st.Neighbours[0].Strikes != 0 || st.Neighbours[0].WrongNARs != wrongToSetAside {
		t.Errorf("banned are %v, neighbours are %+v, want no strike and %d wrong NARs", st.Banned, st.Neighbours, wrongToSetAside)
	}
	// Now it is set aside: its claim alone is no reason to answer Nix 200.
	last := infos[damaged]
	unreliable(t, n, last)
	if st.Neighbours[0].Aside == "" || st.Neighbours[0].AsideUntil == nil {
		t.Errorf("the neighbour is not set aside: %+v", st.Neighbours[0])
	}
	if a := n.AskEach(t.Context(), last.Path.HashPart()); len(a) != 1 || !a[0].Believed() || a[0].Unreliable == "" {
		t.Errorf("AskEach = %+v, want a claim that is believed and not relied on", a)
	}
	// Beside another holder it counts.
	honest := (&rogue{info: last, nar: nars[damaged]}).start(t)
	honest.connect(t, n, "/ip4/127.0.0.1")
	awaitNeighbours(t, n, 2)
	fetchAll(t, n, find(t, n, last.Path.HashPart()), nars[damaged])
}

// unreliable looks a path up until its only holder has answered, and fails the test unless it is not relied on.
func unreliable(t testing.TB, n *Node, info store.Info) {
	t.Helper()
	eventually(t, "answered by a holder that is not relied on", func() bool {
		m, err := n.Lookup(t.Context(), info.Path.HashPart())
		if !errors.Is(err, store.ErrNotFound) {
			t.Fatalf("Lookup(%s) = %v, %v, want ErrNotFound", info.Path, m.Path(), err)
		}
		return errors.Is(err, ask.ErrUnreliable)
	})
}

func TestWrongNARIsNotTakenAgainFromItsSender(t *testing.T) {
	s := trusttest.NewSigner(t)
	nar := randomNAR(1000)
	info, m := s.Sign(t, "small", nar)
	bad := (&rogue{info: info, nar: nar, block: func(s network.Stream, _ int, b []byte) error {
		b = append([]byte{}, b...)
		b[len(b)/2] ^= 1
		return writeRaw(s, b)
	}}).start(t)
	n, _ := runNode(t, s, nil, bad)
	if sp, err := n.Fetch(t.Context(), m); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("Fetch = %v, %v, want ErrNotFound", sp, err)
	}
	unreliable(t, n, info)
	before := n.Status().Neighbours[0].BlocksReceived
	if sp, err := n.Fetch(t.Context(), m); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("second Fetch = %v, %v, want ErrNotFound", sp, err)
	}
	if got := n.Status().Neighbours[0]; got.BlocksReceived != before || got.WrongNARs != 1 || got.Strikes != 0 {
		t.Errorf("after the second fetch %+v, want no further block, one wrong NAR, no strike", got)
	}
}

// TestPeerWithWrongNARsGivesNoBlocks has three neighbours, of which one has sent wrong NARs.
func TestPeerWithWrongNARsGivesNoBlocks(t *testing.T) {
	s := trusttest.NewSigner(t)
	n, _ := runNode(t, s, nil)
	_, wanted := s.Sign(t, "wanted", randomNAR(10))
	honest, damaged, other := ghost(t, n), ghost(t, n), ghost(t, n)
	for i := range wrongToSetAside {
		_, m := s.Sign(t, fmt.Sprint("wrong", i), randomNAR(10))
		n.ledger.SentWrong(damaged.ID, m, store.ErrCorrupt)
	}
	n.ledger.Avoid(other.Tally, wanted, time.Hour, "sent a wrong NAR")
	record := n.downloads.Sessions.Conduct
	for nb, want := range map[*peers.Neighbour]bool{honest: true, damaged: false, other: false} {
		if got := record.Takes(nb, wanted); got != want {
			t.Errorf("blocks are taken from a peer: %v, want %v", got, want)
		}
	}
}
