package p2p

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	ma "github.com/multiformats/go-multiaddr"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"narbor/p2p/p2ptest"
	"narbor/p2p/peers"
	"narbor/p2p/transport"
	"narbor/p2p/wire"
	"narbor/store"
	"narbor/store/spool"
	"narbor/trust"
	"narbor/trust/trusttest"
)

// The fields of a proof of a group's secret, and the protocol after it: see the package comment.
const (
	nonceLen, proofLen             = 32, 32
	memberProtocol     protocol.ID = "/narbor/member/1"
)

var secretA, secretB = []byte("the secret of the group A"), []byte("the secret of the group B")

// A grouped node is one that runs, with what it logged.
type grouped struct {
	*Node
	logs *observer.ObservedLogs
}

// newGrouped runs a node with a secret, or none, that shares src and knows others.
func newGrouped(t *testing.T, s trusttest.Signer, secret []byte, src store.Source, others ...host.Host) grouped {
	t.Helper()
	spool, err := spool.Open(spool.Config{Dir: t.TempDir(), MinFree: -1})
	if err != nil {
		t.Fatal(err)
	}
	core, logs := observer.New(zap.InfoLevel)
	cfg := Config{Host: transport.Config{Identity: p2ptest.NewIdentity(t), Log: zap.New(core)}, Trusted: s.Keys,
		Sharing:     SharingConfig{Policy: trust.Policy{Keys: s.Keys}, Sources: []store.Source{src}},
		Spool:       spool,
		GroupSecret: secret}
	cfg.Discovery.DenyInterfaces = p2ptest.AllInterfaces
	for _, o := range others {
		cfg.Discovery.Peers = append(cfg.Discovery.Peers, (&rogue{Host: o}).addr())
	}
	n, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	ctx, stop := context.WithCancel(t.Context())
	go func() { done <- n.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("Run = %v", err)
		}
		spool.Close()
	})
	return grouped{n, logs}
}

func TestGroupsKeepToThemselves(t *testing.T) {
	s := trusttest.NewSigner(t)
	nar := randomNAR(3 * store.BlockSize)
	info, m := s.Sign(t, "shared", nar)
	mem := new(store.Mem)
	mem.Add(info, nar)
	for name, secret := range map[string][]byte{"another secret": secretB, "no secret": nil} {
		t.Run(name, func(t *testing.T) {
			holder := newGrouped(t, s, secretA, mem)
			outsider := newGrouped(t, s, secret, mem)
			member := newGrouped(t, s, secretA, new(store.Mem), holder.lan.Host(), outsider.lan.Host())
			foreign := newGrouped(t, s, secret, new(store.Mem), holder.lan.Host(), outsider.lan.Host())
			for i, n := range []grouped{member, foreign} {
				own, other := []grouped{holder, outsider}[i], []grouped{outsider, holder}[i]
				eventually(t, "found one of its group and one of another", func() bool {
					st := n.Status()
					return len(st.Neighbours) == 1 && len(st.OtherGroup) == 1
				})
				st := n.Status()
				if st.Neighbours[0].ID != own.Status().ID || st.OtherGroup[0].ID != other.Status().ID ||
					st.Group != (n.cfg.GroupSecret != nil) {
					t.Errorf("node %d: status %+v, want %s as neighbour, %s of another group", i, st, own.Status().ID, other.Status().ID)
				}
				fetchAll(t, n.Node, m, nar)
			}
			if got := holder.ledger.TallyOf(foreign.lan.Host().ID()).ClaimsSent.Load() +
				outsider.ledger.TallyOf(member.lan.Host().ID()).ClaimsSent.Load(); got != 0 {
				t.Errorf("%d claims were sent to another group", got)
			}
			for i, n := range []grouped{holder, outsider, member, foreign} {
				eventually(t, "logged", func() bool { return n.logs.FilterMessageSnippet("another group").Len() > 0 })
				if got := n.logs.FilterMessageSnippet("another group").Len(); got != 1 {
					t.Errorf("node %d logs %d times that a neighbour is of another group, want once", i, got)
				}
				for _, e := range n.logs.All() {
					if e.Level > zap.InfoLevel && e.Message != "named peer not reached" { // at once, on a busy machine
						t.Errorf("node %d logs: %s %v", i, e.Message, e.ContextMap())
					}
				}
				if got := n.Status().Banned; len(got) > 0 {
					t.Errorf("node %d has banned %v", i, got)
				}
			}
		})
	}
}

// A peer without a proof is not answered, whatever it sends, and is not struck.
func TestOutsidersAreNotAnswered(t *testing.T) {
	s := trusttest.NewSigner(t)
	nar := randomNAR(1000)
	info, _ := s.Sign(t, "shared", nar)
	mem := new(store.Mem)
	mem.Add(info, nar)
	n := newGrouped(t, s, secretA, mem)
	g := (&rogue{}).start(t)
	addr := ma.StringCast(fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", transport.ListenPort(n.lan.Host())))
	if err := g.Connect(t.Context(), peer.AddrInfo{ID: n.lan.Host().ID(), Addrs: []ma.Multiaddr{addr}}); err != nil {
		t.Fatal(err)
	}
	if _, err := g.NewStream(t.Context(), n.lan.Host().ID(), wire.ProtocolID); err == nil {
		t.Error("a host with a secret speaks to everybody")
	}
	other, err := peers.NewGroup(secretB, g.Host, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	if err := other.ProveTo(t.Context(), n.lan.Host().ID()); !errors.Is(err, peers.ErrOtherGroup) {
		t.Errorf("proof with another secret: %v, want ErrOtherGroup", err)
	}
	for name, prove := range map[string]func(st network.Stream, heard []byte){
		"nothing":       func(network.Stream, []byte) {},
		"noise":         func(st network.Stream, _ []byte) { st.Write(p2ptest.Random(proofLen)) },
		"what it heard": func(st network.Stream, heard []byte) { st.Write(heard) },
	} {
		st, err := g.NewStream(t.Context(), n.lan.Host().ID(), peers.GroupProtocol)
		if err != nil {
			t.Fatal(err)
		}
		st.SetDeadline(time.Now().Add(20 * time.Second))
		st.Write(p2ptest.Random(nonceLen))
		heard := make([]byte, nonceLen+proofLen)
		if _, err := io.ReadFull(st, heard); err != nil {
			t.Fatalf("%s: no nonce: %v", name, err)
		}
		prove(st, heard[nonceLen:])
		if name != "nothing" {
			if b, err := io.ReadAll(st); !errors.Is(err, &network.StreamError{ErrorCode: peers.ErrOutsider, Remote: true}) || len(b) > 0 {
				t.Errorf("%s: proof answered by %x, %v, want a reset with %#x", name, b, err, peers.ErrOutsider)
			}
		}
		var b []byte
		ask, err := g.NewStream(t.Context(), n.lan.Host().ID(), memberProtocol)
		if err == nil { // the node may reset it while its protocol is negotiated
			ask.SetDeadline(time.Now().Add(20 * time.Second))
			ask.Write(wire.Request{Kind: wire.AskClaims, HashParts: []store.HashPart{info.Path.HashPart()}}.Append(nil))
			b, err = io.ReadAll(ask)
		}
		if !errors.Is(err, &network.StreamError{ErrorCode: peers.ErrOutsider, Remote: true}) || len(b) > 0 {
			t.Errorf("%s: question answered by %d bytes, %v, want a reset with %#x", name, len(b), err, peers.ErrOutsider)
		}
		st.Reset()
	}
	if got := n.ledger.TallyOf(g.ID()); got.Strikes.Load() != 0 || got.ClaimsSent.Load() != 0 {
		t.Errorf("the outsider has %d strikes and %d claims, want none", got.Strikes.Load(), got.ClaimsSent.Load())
	}
	eventually(t, "logged", func() bool { return n.logs.FilterMessageSnippet("another group").Len() > 0 })
	if got := n.logs.FilterMessageSnippet("another group").Len(); got != 1 {
		t.Errorf("it was logged %d times, want once", got)
	}
}

// A member must prove itself anew once its connections have ended.
func TestMembershipEndsWithTheConnection(t *testing.T) {
	s := trusttest.NewSigner(t)
	a := newGrouped(t, s, secretA, new(store.Mem))
	b := newGrouped(t, s, secretA, new(store.Mem), a.lan.Host())
	id := b.lan.Host().ID()
	eventually(t, "joined", func() bool { return len(a.Status().Neighbours) == 1 && a.greeter.Group.Has(id) })
	b.lan.Host().Close()
	eventually(t, "left", func() bool { return len(a.Status().Neighbours) == 0 && !a.greeter.Group.Has(id) })
}

func TestShortSecretsAreRefused(t *testing.T) {
	cfg := Config{Host: transport.Config{Identity: p2ptest.NewIdentity(t)}, Trusted: new(trust.Keys),
		Sharing:     SharingConfig{Policy: trust.Policy{Keys: new(trust.Keys)}},
		GroupSecret: bytes.Repeat([]byte("x"), 15)}
	if _, err := New(cfg); err == nil {
		t.Error("New with a short secret works")
	}
}

// A peer that answers a proof without knowing the secret, or by sending back what it received, is not asked.
func TestImpostorsAreNotAsked(t *testing.T) {
	s := trusttest.NewSigner(t)
	impostor := (&rogue{}).start(t)
	var proofs, asked atomic.Int64
	impostor.SetStreamHandler(peers.GroupProtocol, func(st network.Stream) {
		defer proofs.Add(1)
		answer := p2ptest.Random(nonceLen + proofLen)
		if _, err := io.ReadFull(st, answer[:nonceLen]); err != nil {
			return
		}
		st.Write(append(answer, 1))
		io.Copy(io.Discard, st)
	})
	impostor.SetStreamHandler(memberProtocol, func(st network.Stream) {
		asked.Add(1)
		st.Reset()
	})
	n := newGrouped(t, s, secretA, new(store.Mem), impostor.Host)
	eventually(t, "tried a proof", func() bool { return proofs.Load() > 0 && len(n.Status().OtherGroup) == 1 })
	info, _ := s.Sign(t, "wanted", randomNAR(100))
	if _, err := n.Lookup(t.Context(), info.Path.HashPart()); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Lookup = %v, want ErrNotFound", err)
	}
	if st := n.Status(); len(st.Neighbours) > 0 || asked.Load() > 0 || n.greeter.Group.Has(impostor.ID()) {
		t.Errorf("%d neighbours, %d streams, a member: %v; want none", len(st.Neighbours), asked.Load(),
			n.greeter.Group.Has(impostor.ID()))
	}
	if got := n.ledger.TallyOf(impostor.ID()).Strikes.Load(); got != 0 {
		t.Errorf("it has %d strikes, want none", got)
	}
}

// Own builds are for members, so a circle without a group would give them to all neighbours.
func TestCircleWithoutAGroupIsAnError(t *testing.T) {
	n, err := New(Config{Host: transport.Config{Identity: p2ptest.NewIdentity(t)}, Trusted: new(trust.Keys),
		Sharing: SharingConfig{Policy: trust.Policy{Keys: new(trust.Keys), Circle: new(trust.Keys)}}})
	if err == nil {
		n.lan.Host().Close()
		t.Error("a node with a circle and no group is made")
	}
}
