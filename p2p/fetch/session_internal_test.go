package fetch

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"narbor/p2p/peers"
	"narbor/p2p/wire"
	"narbor/store"
	"narbor/store/upstream"
	"narbor/trust"
)

// A testRecord takes blocks from all peers but those refused, and assigns no proxy but the one it has.
type testRecord struct {
	refused, avoided map[peer.ID]bool
	proxy            *peers.Neighbour
}

func (r *testRecord) Holders(context.Context, trust.Mapping, bool) []Holder { return nil }
func (r *testRecord) Known(trust.Mapping) []Holder                          { return nil }
func (r *testRecord) AskAround(trust.Mapping)                               {}
func (r *testRecord) Assignee(_ store.HashPart, out func(*peers.Neighbour) bool) (*peers.Neighbour, int) {
	if r.proxy == nil || out(r.proxy) {
		return nil, 0
	}
	return r.proxy, 1
}
func (r *testRecord) Takes(nb *peers.Neighbour, _ trust.Mapping) bool { return !r.refused[nb.ID] }
func (r *testRecord) Avoid(nb *peers.Neighbour, _ trust.Mapping, _ time.Duration, _ string) {
	r.avoided[nb.ID] = true
}
func (r *testRecord) Strike(peer.ID, error)               {}
func (r *testRecord) Wrong(peer.ID, trust.Mapping, error) {}
func (r *testRecord) Distrust(peer.ID)                    {}

// newTestFetch returns a fetch of a NAR of four blocks, without a draft.
func newTestFetch() (*Session, *testRecord) {
	r := &testRecord{refused: map[peer.ID]bool{}, avoided: map[peer.ID]bool{}}
	of := &Deps{Self: "self", Swarm: r, Conduct: r, Throughput: new(Throughput), Log: zap.NewNop()}
	f := of.NewSession(trust.Mapping{}, nil, trust.Mapping{}, false)
	f.plan.picker = newPicker(4, store.Hash{1}, "self", time.Now())
	return f, r
}

func peerNamed(id string) *peers.Neighbour {
	return peers.NewNeighbour(nil, peer.ID(id), wire.ProtocolID, peers.NewLedger("", zap.NewNop()))
}

func TestRefusedPeerIsNeitherPartialPeerNorProxy(t *testing.T) {
	f, record := newTestFetch()
	honest, refused := peerNamed("honest"), peerNamed("refused")
	record.refused[refused.ID] = true
	f.AddMember(honest)
	f.AddMember(refused)
	for nb, want := range map[*peers.Neighbour]bool{honest: true, refused: false} {
		if got := f.IsPartial(nb); got != want {
			t.Errorf("%s is a member of the swarm: %v, want %v", nb.ID, got, want)
		}
		if got := f.supply.setProxy(nb); got != want {
			t.Errorf("%s is relied on to download the NAR: %v, want %v", nb.ID, got, want)
		}
	}
}

func TestBlockOutsideTheManifestIsAskedForAgainAtOnce(t *testing.T) {
	f, _ := newTestFetch()
	f.blame.compare(make(store.Manifest, 4))
	i, ok := f.plan.pick(peerNamed("reference"), nil)
	if !ok {
		t.Fatal("nothing to pick")
	}
	if err := f.deliver(peerNamed("reference"), i, []byte("wrong"), false); !errors.Is(err, store.ErrCorrupt) {
		t.Fatalf("deliver(wrong block) = %v, want ErrCorrupt", err)
	}
	if again, ok := f.plan.pick(peerNamed("reference"), nil); !ok || again != i {
		t.Errorf("pick = %d, %v, want block %d again", again, ok, i)
	}
}

// Neighbours under ever new names could otherwise send the NAR wrong, time and again, before an upstream has sent it.
func TestNeighboursThatWereWrongLeaveTheNARToUpstreams(t *testing.T) {
	for _, c := range []struct {
		cuts, tries int32
		upstreams   int
		joins       bool
	}{
		{cuts: supplyTries - 1, upstreams: 1, joins: true},
		{cuts: supplyTries, upstreams: 1},
		{cuts: supplyTries, tries: supplyTries - 1, upstreams: 1},
		{cuts: supplyTries, tries: supplyTries, upstreams: 1, joins: true},
		{cuts: supplyTries, tries: supplyTries, upstreams: 2},
		{cuts: supplyTries, upstreams: 0, joins: true},
	} {
		f, record := newTestFetch()
		f.Swarm, f.Upstreams = holding{record, peerNamed("new")}, make([]*upstream.Cache, c.upstreams)
		f.supply.cuts.Store(c.cuts)
		f.supply.tries.Store(c.tries)
		f.lookAround(time.Now())
		if got := len(f.plan.holders()) > 0; got != c.joins {
			t.Errorf("%+v: a neighbour that appears is asked: %v", c, got)
		}
		f.blame.compare(store.Manifest{})
		if f.supply.upstreamsOnly() {
			t.Errorf("%+v: while blocks are compared with a holder's manifest that holder is not asked", c)
		}
	}
}

// Of an upstream that is too slow the fetch ends, unless holders were left out: then it is their turn.
func TestSlowUpstreamGivesHoldersTheirTurn(t *testing.T) {
	for _, leftOut := range []bool{false, true} {
		f, _ := newTestFetch()
		f.Upstreams = make([]*upstream.Cache, 2)
		f.plan.begin()
		if leftOut {
			f.supply.cuts.Store(supplyTries)
		}
		slow := fmt.Errorf("too slow: %w", store.ErrNotFound)
		if err := f.supply.giveUp(slow); (err != nil) != leftOut {
			t.Errorf("holders were left out: %t, and the upstream ends with %v", leftOut, err)
		}
		if _, err := f.plan.state(); (err == nil) != leftOut {
			t.Errorf("holders were left out: %t, and the fetch ends with %v", leftOut, err)
		}
		if f.supply.upstreamsOnly() {
			t.Errorf("holders were left out: %t, and are so still", leftOut)
		}
	}
}

func TestMembersOfASwarmAreBounded(t *testing.T) {
	f, _ := newTestFetch()
	for i := range 4 * maxPartials {
		f.plan.addMember(peerNamed(fmt.Sprint(i)), false)
	}
	if members, waiting := len(f.plan.picker.swarm.members), len(f.plan.partials); members != maxPartials || waiting != maxPartials {
		t.Errorf("%d members and %d to be asked, want %d", members, waiting, maxPartials)
	}
	if !f.plan.addMember(peerNamed("proxy"), true) {
		t.Error("the proxy is not a member of a full swarm")
	}
}

func TestPeerThatHadNothingIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, _ := newTestFetch()
		nb := peerNamed("other")
		offer := func() bool { return f.plan.addMember(nb, false) }
		if !offer() || !f.plan.failed(nb, false) {
			t.Fatal("the peer was no member")
		}
		if time.Sleep(HoldersFresh - 1); offer() {
			t.Errorf("the peer is a member again %s after it had nothing", HoldersFresh-1)
		}
		if time.Sleep(time.Nanosecond); !offer() {
			t.Errorf("the peer is no member %s after it had nothing", HoldersFresh)
		}
	})
}

// Each proxy may keep a download waiting for some seconds.
func TestProxiesOfADownloadAreBounded(t *testing.T) {
	f, record := newTestFetch()
	f.Wanted = testMapping(t, "wanted", make([]byte, 1000))
	record.proxy = peerNamed("proxy")
	if nb, _ := f.supply.assignee(); nb != record.proxy {
		t.Fatalf("%v is assigned, want the only candidate", nb)
	}
	for j := range maxProxies {
		f.proxies.ask(peerNamed(fmt.Sprint(j)))
	}
	if nb, _ := f.supply.assignee(); nb != nil {
		t.Errorf("after %d proxies another is assigned", maxProxies)
	}
}

func TestWrongNARIsNoLongerPassedOn(t *testing.T) {
	f, _ := newTestFetch()
	f.shared = true
	if _, ok := f.Mapping(); !ok {
		t.Fatal("a NAR that is being received is not passed on")
	}
	f.leaveSwarm()
	if _, ok := f.Mapping(); ok {
		t.Error("a NAR that came out wrong is passed on")
	}
}
