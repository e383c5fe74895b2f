package p2p

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"

	"narbor/p2p/netmon"
	"narbor/p2p/p2ptest"
	"narbor/p2p/peers"
	"narbor/p2p/proxy"
	"narbor/p2p/wire"
	"narbor/store"
	"narbor/store/upstream"
	"narbor/trust/trusttest"
)

// An oneCache is a binary cache of one path, and counts what it is asked.
type oneCache struct {
	*httptest.Server
	infos, nars atomic.Int64
}

func newOneCache(t *testing.T, info store.Info, nar []byte) *oneCache {
	c := &oneCache{}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasPrefix(r.URL.Path, "/nar/"):
			c.nars.Add(1)
			w.Write(nar)
		case r.URL.Path == "/"+string(info.Path.HashPart())+".narinfo":
			c.infos.Add(1)
			fmt.Fprintf(w, "%sURL: nar/x\nCompression: none\n", info)
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(c.Close)
	return c
}

// open makes it an upstream; user is put before the host.
func (c *oneCache) open(t *testing.T, user string) *upstream.Cache {
	t.Helper()
	u, err := upstream.Open(upstream.Config{URL: strings.Replace(c.URL, "http://", "http://"+user, 1), Agent: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { u.Close() })
	return u
}

// A Request to use a machine's upstream is refused under each of these conditions, whether or not the machine offers
// that, and the upstream is not asked.
func TestUpstreamsAreNotUsedForOthers(t *testing.T) {
	s := trusttest.NewSigner(t)
	nar := randomNAR(3 * store.BlockSize)
	info, _ := s.Sign(t, "wanted", nar)
	other, _ := s.Sign(t, "other", nar)
	battery := t.TempDir()
	if err := os.Mkdir(filepath.Join(battery, "BAT0"), 0o755); err != nil {
		t.Fatal(err)
	}
	for attribute, value := range map[string]string{"type": "Battery", "status": "Discharging"} {
		if err := os.WriteFile(filepath.Join(battery, "BAT0", attribute), []byte(value+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name      string
		user      string
		edit      func(*Config)
		then      func(*Node)
		ask, have wire.Verdict // answers to the questions about the narinfo, and the NAR
	}{
		{name: "nothing in the way", ask: wire.VerdictYes, have: wire.VerdictYes},
		{name: "metered", then: func(n *Node) {
			policy, err := netmon.NewPolicy(nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			links, err := policy.Scan()
			if err != nil {
				t.Fatal(err)
			}
			n.lan.Links.Set(append(links, netmon.Link{InterfaceStatus: netmon.InterfaceStatus{Name: "wwan0", Reason: netmon.Metered}}))
		}},
		{name: "on battery", edit: func(cfg *Config) { cfg.Upstreams.PowerSupplies = battery }},
		{name: "password", user: "me:secret@"},
		{name: "token", user: "secret@"},
		{name: "shares nothing", edit: func(cfg *Config) { cfg.Sharing.Off = true }},
		{name: "shares nothing by now", then: func(n *Node) { n.Share(false) }},
		{name: "does not cooperate", edit: func(cfg *Config) { cfg.Upstreams.NoCooperate = true }},
		{name: "budget used up", edit: func(cfg *Config) { cfg.Upstreams.Budget = 2*info.NarSize - 2 }, ask: wire.VerdictYes},
	} {
		t.Run(tt.name, func(t *testing.T) {
			web := newOneCache(t, info, nar)
			g := (&rogue{info: other, nar: nar}).start(t)
			n, _ := runNodeAs(t, s, func(cfg *Config) {
				cfg.Sharing.Sources, cfg.Upstreams.Caches = []store.Source{new(store.Mem)}, []*upstream.Cache{web.open(t, tt.user)}
				if tt.edit != nil {
					tt.edit(cfg)
				}
			}, g)
			if tt.then != nil {
				tt.then(n)
			}
			ask, have := g.begs(t, n, info)
			if ask != tt.ask || have != tt.have {
				t.Errorf("answers are %d about the narinfo and %d about the NAR, want %d and %d", ask, have, tt.ask, tt.have)
			}
			eventually(t, "saying that it asks upstreams for others if it does", func() bool {
				if tt.then != nil {
					tt.then(n) // a scan of the interfaces may have replaced the metered one
				}
				sign, err := g.Peerstore().SupportsProtocols(n.lan.Host().ID(), proxy.ProtocolID(n.cfg.Upstreams.Caches))
				if err != nil {
					t.Fatal(err)
				}
				return (len(sign) > 0) == (tt.ask == wire.VerdictYes)
			})
			if got := web.infos.Load(); (got > 0) != (tt.ask == wire.VerdictYes) {
				t.Errorf("the upstream was asked for %d narinfos", got)
			}
			if tt.have == wire.VerdictYes {
				eventually(t, "asked for the archive", func() bool { return web.nars.Load() > 0 })
			}
			if got := web.nars.Load(); (got > 0) != (tt.have == wire.VerdictYes) ||
				n.Status().ForOthers > 0 != (tt.have == wire.VerdictYes) {
				t.Errorf("the upstream was asked for %d archives, %d bytes for others", got, n.Status().ForOthers)
			}
		})
	}
}

// begs asks a node to ask its upstream about a path, and to download it.
func (g *rogue) begs(t *testing.T, n *Node, info store.Info) (ask, have wire.Verdict) {
	t.Helper()
	st := g.dial(t, n)
	defer st.Reset()
	st.SetDeadline(time.Now().Add(20 * time.Second))
	br, hps := bufio.NewReader(st), []store.HashPart{info.Path.HashPart()}
	st.Write(wire.Request{Kind: wire.AskUpstream, HashParts: hps}.Append(nil))
	ask, _, err := wire.ReadVerdict(br)
	if err != nil {
		t.Fatalf("no answer about the narinfo: %v", err)
	}
	st.Write(wire.Request{Kind: wire.AskFetch, HashParts: hps, NAR: info.NarHash}.Append(nil))
	fetching, err := wire.ReadProgress(br)
	if err != nil {
		t.Fatalf("no answer about the NAR: %v", err)
	}
	return ask, fetching.Verdict
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
	if left := n.Status().BudgetLeft; left/2 < second.NarSize {
		t.Errorf("%d bytes of the budget are left, of which a peer at another address would not get half", left)
	}
}

func TestOutsidersOfAGroupAreNotDownloadedFor(t *testing.T) {
	s := trusttest.NewSigner(t)
	nar := randomNAR(1000)
	info, _ := s.Sign(t, "wanted", nar)
	web := newOneCache(t, info, nar)
	n, _ := runNodeAs(t, s, func(cfg *Config) {
		cfg.Sharing.Sources, cfg.Upstreams.Caches, cfg.GroupSecret = []store.Source{new(store.Mem)}, []*upstream.Cache{web.open(t, "")},
			secretA
	})
	if st := n.Status(); !st.Cooperates {
		t.Fatalf("it would not download for others: %s", st.Alone)
	}
	g := (&rogue{}).start(t)
	for _, p := range []protocol.ID{memberProtocol, wire.ProtocolID} {
		for _, kind := range []wire.Kind{wire.AskUpstream, wire.AskFetch} {
			g.connect(t, n, "/ip4/127.0.0.1")
			st, err := g.NewStream(t.Context(), n.lan.Host().ID(), p)
			if err != nil {
				continue // it does not speak it, which will do
			}
			st.SetDeadline(time.Now().Add(20 * time.Second))
			st.Write(wire.Request{Kind: kind, HashParts: []store.HashPart{info.Path.HashPart()}, NAR: info.NarHash}.Append(nil))
			if b, err := io.ReadAll(st); len(b) > 0 || err == nil {
				t.Errorf("%s, kind %d: a machine outside the group is answered %x, %v, want a reset", p, kind, b, err)
			}
		}
	}
	if web.infos.Load()+web.nars.Load() > 0 {
		t.Error("the upstream was asked for a machine outside the group")
	}
}

// A machine with an upstream that is down asks a neighbour with the same upstream, which has not noticed that yet.
func TestNeighbourIsAskedBrieflyWhileUpstreamIsDown(t *testing.T) {
	s := trusttest.NewSigner(t)
	nar := randomNAR(1000)
	info, _ := s.Sign(t, "other", nar)
	web := newOneCache(t, info, nar)
	up := web.open(t, "")
	web.Close()
	g := (&rogue{info: info, nar: nar}).start(t)
	g.SetStreamHandler(proxy.ProtocolID([]*upstream.Cache{up}), func(s network.Stream) { s.Reset() })
	var asked atomic.Int64
	g.SetStreamHandler(wire.ProtocolID, func(s network.Stream) {
		defer s.Reset()
		for br := bufio.NewReader(s); ; {
			r, err := wire.ReadRequest(br)
			if err == nil && r.Kind == wire.AskUpstream {
				asked.Add(1)
				continue // and no answer
			}
			if err != nil || g.answer(s, r) != nil {
				return
			}
		}
	})
	n, _ := runNodeAs(t, s, func(cfg *Config) { cfg.Upstreams.Caches = []*upstream.Cache{up} }, g)
	eventually(t, "with an assignee", func() bool { return n.Status().Proxies > 0 })
	if _, err := up.Info(t.Context(), p2ptest.HashParts(1, 1)[0]); err == nil || !up.Down() {
		t.Fatalf("the upstream is not down: %v", err)
	}
	const infoPatience = 2 * time.Second // for an upstream that is not down
	least := infoPatience
	for i := 0; asked.Load() == 0 || i < 20 && least > infoPatience-peers.InfoTimeout; i++ { // again if this machine was busy
		began, before := time.Now(), asked.Load()
		if _, err := n.LookupUpstream(t.Context(), p2ptest.HashParts(i, 1)[0]); err == nil || errors.Is(err, store.ErrNotFound) {
			t.Fatalf("LookupUpstream = %v, want that it cannot be told", err)
		}
		if asked.Load() > before {
			least = min(least, time.Since(began))
		}
	}
	if least > infoPatience-peers.InfoTimeout {
		t.Errorf("it took %s, want about %s", least, peers.InfoTimeout)
	}
}
