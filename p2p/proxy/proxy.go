package proxy

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"

	"narbor/p2p/ask"
	"narbor/p2p/fetch"
	"narbor/p2p/netmon"
	"narbor/p2p/peers"
	"narbor/p2p/receive"
	"narbor/p2p/serve"
	"narbor/store"
	"narbor/store/flight"
	"narbor/store/spool"
	"narbor/store/upstream"
	"narbor/trust"
)

// Upstreams has the upstreams of this machine, and says whether they are asked for neighbours.
type Upstreams struct {
	// Caches on the internet are asked, in order, for what no neighbour has; none asks nothing. They are closed by
	// the caller of p2p.New, after Run.
	Caches []*upstream.Cache
	// NoCooperate asks the upstreams for this machine alone, and no neighbour to ask its own. Budget is how many bytes
	// of NARs a day are fetched for neighbours, for one address at most half of what the others leave; 0 is
	// [DefaultBudget].
	NoCooperate bool
	Budget      int64
	// PowerSupplies is the directory [netmon.PowerSupplies], which tells whether the machine runs on battery; "" means
	// mains power.
	PowerSupplies string
}

// Config is what a proxy needs of the node. All fields are required but those of Upstreams. Its functions may be called
// concurrently.
type Config struct {
	Upstreams
	Host       host.Host
	Lookups    *ask.Lookups
	Server     *serve.Server
	Downloads  *receive.Downloads
	Fetches    *spool.Fetches    // into the spool of Downloads
	Life       *flight.Life      // of downloads for neighbours
	Throughput *fetch.Throughput // of all downloads from upstreams
	Metered    func() bool       // whether an interface costs money by the byte
	// Landed is called when a NAR that was fetched only for neighbours is in the spool, or with the error of its fetch.
	Landed func(m trust.Mapping, err error)
}

// A Proxy asks the upstreams for neighbours, and knows which neighbour does that for this machine. Its methods may be
// called concurrently.
type Proxy struct {
	cfg       Config
	protocol  protocol.ID // of the peers that ask the same upstreams for others
	upstreams *upstreams
	downloads *downloads
	power     *netmon.Power
}

// New starts nothing.
func New(cfg Config) *Proxy {
	return &Proxy{cfg: cfg, protocol: ProtocolID(cfg.Caches),
		upstreams: &upstreams{cfg.Caches, cfg.Lookups.Secrets.Trusted, cfg.Lookups.Log},
		downloads: newDownloads(cmp.Or(cfg.Budget, DefaultBudget)), power: &netmon.Power{Dir: cfg.PowerSupplies}}
}

// upstreamProtocol begins an upstream protocol ID. That protocol carries no data: a peer advertises it to say that it
// asks certain upstreams on behalf of neighbours.
const upstreamProtocol = "/narbor/upstream/1/"

// ProtocolID is advertised by the peers that ask these upstreams. Others are never assignees: our upstreams may
// have what theirs lack.
func ProtocolID(upstreams []*upstream.Cache) protocol.ID {
	var urls []string
	for _, u := range upstreams {
		urls = append(urls, u.String())
	}
	slices.Sort(urls)
	sum := sha256.Sum256([]byte(strings.Join(slices.Compact(urls), "\n")))
	return protocol.ID(upstreamProtocol + hex.EncodeToString(sum[:8]))
}

// isProxy says whether this node asks its upstreams for others.
func (px *Proxy) isProxy() bool { return px.alone() == "" }

// alone returns the reason why this node asks its upstreams only for itself; "" if it asks for others, too.
func (px *Proxy) alone() string {
	switch {
	case len(px.cfg.Caches) == 0:
		return "it has no upstream"
	case px.cfg.NoCooperate:
		return "it does not cooperate (--no-cooperate)"
	case !px.cfg.Server.Sharing():
		return "it shares nothing"
	case !px.upstreams.public():
		return "an upstream's URL has a user or a password"
	case px.cfg.Metered():
		return "it is on a metered network"
	case px.power.OnBattery():
		return "it runs on battery"
	}
	return ""
}

// Advertise lets neighbours know whether this node asks its upstreams for them; that may change. It is not called
// concurrently.
func (px *Proxy) Advertise() {
	h := px.cfg.Host
	shown := slices.Contains(h.Mux().Protocols(), px.protocol)
	switch is := px.isProxy(); {
	case is && !shown:
		h.SetStreamHandler(px.protocol, func(s network.Stream) { s.Reset() })
	case !is && shown:
		h.RemoveStreamHandler(px.protocol)
	}
}

// weightKey is the beginning of the hash input of the peers' rendezvous weights for a path. It does not depend on
// the NAR: so the peer that asks for its narinfo is also the one that fetches its NAR, and has its location by then.
func weightKey(hp store.HashPart) store.Hash { return sha256.Sum256([]byte(hp)) }

// Assignee implements the rest of [fetch.Swarm]: of all neighbours that ask the upstreams for others and are not left
// out, and this node, it returns the one of the highest weight for the hash part, or nil for this node.
func (px *Proxy) Assignee(hp store.HashPart, out func(*peers.Neighbour) bool) (proxy *peers.Neighbour, others int) {
	h := weightKey(hp)
	best := fetch.WeightSeed(px.cfg.Host.ID(), h)
	for _, nb := range px.proxies() {
		if out != nil && out(nb) {
			continue
		}
		others++
		if s := fetch.WeightSeed(nb.ID, h); s > best {
			best, proxy = s, nb
		}
	}
	return proxy, others
}

// proxies are the neighbours that ask an upstream on behalf of others, and have not failed to of late.
func (px *Proxy) proxies() (out []*peers.Neighbour) {
	if px.cfg.NoCooperate || len(px.cfg.Caches) == 0 {
		return nil
	}
	now := time.Now()
	for _, nb := range px.cfg.Lookups.Neighbours.All() {
		if nb.LeftOut(now) == "" && nb.Has(px.protocol) {
			out = append(out, nb)
		}
	}
	return out
}
