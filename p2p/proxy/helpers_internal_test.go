package proxy

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"go.uber.org/zap"

	"narbor/p2p/ask"
	"narbor/p2p/fetch"
	"narbor/p2p/p2ptest"
	"narbor/p2p/peers"
	"narbor/p2p/receive"
	"narbor/p2p/secrets"
	"narbor/p2p/serve"
	"narbor/p2p/wire"
	"narbor/store"
	"narbor/store/flight"
	"narbor/store/spool"
	"narbor/store/storetest"
	"narbor/store/upstream"
	"narbor/trust"
	"narbor/trust/trusttest"
)

// randomNAR returns a NAR of size bytes, or the few more that it must have.
func randomNAR(size int) []byte {
	return storetest.FileNAR(p2ptest.Random(max(0, size-len(storetest.FileNAR(nil)))))
}

// A nobodyConn is a connection of a peer that is no neighbour.
type nobodyConn struct{ network.Conn }

func (nobodyConn) RemotePeer() peer.ID           { return "asker" }
func (nobodyConn) RemoteMultiaddr() ma.Multiaddr { return ma.StringCast("/ip4/192.0.2.1/tcp/1") }

// A self is a host with an ID, and no more.
type self struct {
	host.Host
	id peer.ID
}

func (s self) ID() peer.ID { return s.id }

type swarm struct {
	*ask.Lookups
	*Proxy
}

// newProxy returns a proxy for an upstream that has no neighbours, with its spool.
func newProxy(t *testing.T, trusted, shared *trust.Keys, url string, sources ...store.Source) (*Proxy, *spool.Spool) {
	t.Helper()
	sp, err := spool.Open(spool.Config{Dir: t.TempDir(), MinFree: -1})
	storetest.Must(t, err)
	t.Cleanup(func() { sp.Close() })
	up, err := upstream.Open(upstream.Config{URL: url, Agent: "test"})
	storetest.Must(t, err)
	t.Cleanup(func() { up.Close() })
	caches, id, ledger := []*upstream.Cache{up}, p2ptest.NewPeer(t), peers.NewLedger("", zap.NewNop())
	cfg := Config{Upstreams: Upstreams{Caches: caches}, Host: self{id: id}, Fetches: spool.NewFetches(sp.Get), Life: flight.NewLife(),
		Throughput: new(fetch.Throughput), Metered: func() bool { return false }, Landed: func(trust.Mapping, error) {}}
	t.Cleanup(func() { cfg.Life.End(nil) })
	fetched := receive.NewFetched(sp, cfg.Fetches)
	cfg.Lookups = ask.New(ask.Config{Neighbours: peers.NewSet(), Ledger: ledger, Log: zap.NewNop(),
		Secrets: secrets.New(secrets.Config{Sources: sources, Upstreams: caches, Shared: shared, Trusted: trusted})})
	cfg.Server = serve.New(serve.Config{Sharing: serve.Sharing{Sources: sources, Policy: trust.Policy{Keys: shared}}, Arriving: fetched,
		Ledger: ledger, Log: zap.NewNop(), Origin: func(a netip.Addr) (netip.Addr, bool) { return a, false }})
	cfg.Server.Share(true)
	others := &swarm{Lookups: cfg.Lookups}
	cfg.Downloads = receive.New(receive.Config{Fetched: fetched, Server: cfg.Server, Lookups: cfg.Lookups, Sessions: &fetch.Deps{Self: id,
		Swarm: others, Upstreams: caches, Throughput: cfg.Throughput, Log: zap.NewNop(),
		Received: func(store.Origin, trust.Mapping, string, int) {}}})
	others.Proxy = New(cfg)
	return others.Proxy, sp
}

// asks has a peer ask a proxy to download a path, and returns the answer.
func asks(t *testing.T, px *Proxy, info store.Info) wire.Verdict {
	t.Helper()
	var b bytes.Buffer
	bw := bufio.NewWriter(&b)
	r := wire.Request{Kind: wire.AskFetch, HashParts: []store.HashPart{info.Path.HashPart()}, NAR: info.NarHash}
	if err := px.AnswerFetch(t.Context(), px.cfg.Server.ClientOn(nobodyConn{}), bw, r); err != nil {
		t.Error(err)
	}
	bw.Flush()
	return wire.Verdict(b.Bytes()[0])
}

// newProxyOf returns a proxy of a machine that has these sources and fetches for others from an upstream which has one path,
// its spool, and a function that asks it to.
func newProxyOf(t *testing.T, signer trusttest.Signer, info store.Info, archive http.HandlerFunc,
	sources ...store.Source) (*Proxy, *spool.Spool, func() wire.Verdict) {
	t.Helper()
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, ".narinfo") {
			fmt.Fprintf(w, "%sURL: nar/x\nCompression: none\n", info)
			return
		}
		archive(w, r)
	}))
	t.Cleanup(web.Close)
	px, sp := newProxy(t, signer.Keys, signer.Keys, web.URL, append(sources, new(store.Mem))...)
	return px, sp, func() wire.Verdict { return asks(t, px, info) }
}

// fetchNow has a proxy's machine receive a NAR for itself.
func fetchNow(ctx context.Context, px *Proxy, m trust.Mapping) (sp *spool.NAR, err error) {
	a, err := px.cfg.Downloads.Begin(m)
	if err != nil {
		return nil, err
	}
	defer func() { a.End(sp) }()
	return a.Fetch(ctx, false, false)
}
