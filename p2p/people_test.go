package p2p_test

import (
	"crypto/rand"
	"errors"
	"path/filepath"
	"slices"
	"testing"

	"github.com/libp2p/go-libp2p/core/crypto"

	"narbor/p2p"
	"narbor/p2p/discovery"
	"narbor/p2p/ping"
	"narbor/p2p/transport"
	"narbor/store"
	"narbor/store/spool"
	"narbor/trust"
)

func TestAskEachReturnsEachAnswer(t *testing.T) {
	u, stranger := newUpstream(t), newUpstream(t)
	nar := noise(1, 1000)
	info := u.sign(t, "p", nar)
	holder, empty := u.newMachine(t, memWith([]store.Info{info}, [][]byte{nar})), u.newMachine(t, nil)
	asker := u.newMachine(t, nil, holder, empty)
	answers := asker.AskEach(t.Context(), info.Path.HashPart())
	if len(answers) != 2 {
		t.Fatalf("AskEach = %+v, want two answers", answers)
	}
	for _, a := range answers {
		if has := a.ID == holder.id(); a.Believed() != has || (a.SignedBy == "upstream-1") != has || (a.NarSize == info.NarSize) != has ||
			a.Problem != "" || a.Addr == "" {
			t.Errorf("answer %+v, want it to have the path: %t", a, has)
		}
	}
	// A machine that trusts another key is told the problem.
	other := signer{stranger.secret, stranger.keys}
	answers = other.newMachine(t, nil, holder).AskEach(t.Context(), info.Path.HashPart())
	if len(answers) != 1 || answers[0].Believed() || answers[0].Path != info.Path.String() || answers[0].Problem == "" {
		t.Errorf("AskEach with another key = %+v, want a claim and a problem", answers)
	}
}

func TestPingMeasures(t *testing.T) {
	u := newUpstream(t)
	nar := noise(1, 3*store.BlockSize+5)
	info := u.sign(t, "p", nar)
	holder := u.newMachine(t, memWith([]store.Info{info}, [][]byte{nar}))
	asker := u.newMachine(t, nil, holder)
	id := holder.id()
	for _, name := range []string{id, id[len(id)-8:], "…" + id[len(id)-8:], "127.0.0.1"} {
		p, err := asker.Ping(t.Context(), name, ping.Config{Count: 3, Bytes: 2 << 20, Paths: []store.HashPart{info.Path.HashPart()}})
		if err != nil || p.ID != id || len(p.Millis) != 3 || p.Lost != 0 || p.Bytes < 2<<20 || p.Seconds <= 0 ||
			p.Path != info.Path.String() || p.Problem != "" || p.Security == "" {
			t.Errorf("Ping(%s) = %+v, %v", name, p, err)
		}
	}
	if p, err := asker.Ping(t.Context(), id, ping.Config{Count: 1, Bytes: 1}); err != nil || p.Problem == "" || p.Bytes != 0 ||
		len(p.Millis) != 1 {
		t.Errorf("Ping without anything to fetch = %+v, %v, want a problem", p, err)
	}
	for _, name := range []string{"", "xyz", id[len(id)-3:], asker.id(), "10.0.0.1"} {
		if p, err := asker.Ping(t.Context(), name, ping.Config{Count: 1}); !errors.Is(err, discovery.ErrNoPeer) {
			t.Errorf("Ping(%q) = %+v, %v, want ErrNoPeer", name, p, err)
		}
	}
	if st := asker.Status().Neighbours[0]; st.BytesReceived != 0 {
		t.Errorf("a ping counts as %d bytes received", st.BytesReceived)
	}
}

func TestBlockedPeersStayBlocked(t *testing.T) {
	u := newUpstream(t)
	holder := u.newMachine(t, nil)
	asker := u.newMachine(t, nil, holder)
	id := holder.id()
	if got, err := asker.Block(id[len(id)-8:]); err != nil || got != id {
		t.Fatalf("Block = %s, %v", got, err)
	}
	if got := asker.Status().Blocked; !slices.Equal(got, []string{id}) {
		t.Errorf("blocked are %q", got)
	}
	p2p.Eventually(t, "without the blocked peer", func() bool { return len(asker.Status().Neighbours) == 0 })
	if _, err := asker.Unblock(id); err != nil {
		t.Fatal(err)
	}
	p2p.Eventually(t, "a neighbour of the unblocked peer", func() bool { return len(asker.Status().Neighbours) > 0 })
	for name, want := range map[string]error{"nobody": discovery.ErrNoPeer, id: discovery.ErrNoPeer} {
		if _, err := asker.Unblock(name); !errors.Is(err, want) {
			t.Errorf("Unblock(%s) = %v, want %v", name, err, want)
		}
	}
	if _, err := asker.Block(asker.id()); err == nil {
		t.Error("a machine blocks itself")
	}
}

func TestRestartKeepsBlockedPeers(t *testing.T) {
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	spool, err := spool.Open(spool.Config{Dir: t.TempDir(), MinFree: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer spool.Close()
	u := newUpstream(t)
	other := u.newMachine(t, nil)
	cfg := p2p.Config{Host: transport.Config{Identity: key}, Trusted: new(trust.Keys),
		Sharing: p2p.SharingConfig{Policy: trust.Policy{Keys: new(trust.Keys)}},
		Spool:   spool,
		Denied:  filepath.Join(t.TempDir(), "denied.json")}
	for range 2 {
		n, err := p2p.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if len(n.Status().Blocked) == 0 {
			if _, err := n.Block(other.id()); err != nil {
				t.Fatal(err)
			}
			p2p.CloseHost(n)
			continue
		}
		if !p2p.Refuses(n, other.id()) {
			t.Error("a peer that was blocked is let in after a restart")
		}
		p2p.CloseHost(n)
		return
	}
	t.Error("the peer is not blocked after a restart")
}
