package serve

import (
	"bufio"
	"context"
	"net/netip"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"narbor/p2p/netmon"
	"narbor/p2p/peers"
	"narbor/p2p/wire"
	"narbor/store"
	"narbor/trust"
)

// Sharing says which paths neighbours may get from this machine. Its functions may be called concurrently.
type Sharing struct {
	Sources      []store.Source // asked in order for what neighbours want, and then [Config.Arriving]; none shares nothing
	trust.Policy                // a path that others may not have is not here
	Off          bool           // the caller of [New] turns sharing on later, by [Server.Share]
	UploadRate   int64          // bytes of blocks, as they go over the wire, that are sent in a second; 0 is no limit
	Manifests    string         // the directory for [Server.KeepManifests]; "" is none
	// Keep keeps verified signatures that a neighbour offers for a claim of Sources, which add them to it; nil takes
	// none.
	Keep func(info store.Info, signatures []string, from string) error
	// Called returns the paths of Sources that have the hash part which at gives for their name; nil has no files by
	// their hash.
	Called func(ctx context.Context, at func(name string) store.HashPart) ([]store.HashPart, error)
}

// A Config is what a server needs. Its functions may be called concurrently.
type Config struct {
	Sharing
	Arriving Arriving // has the NARs that come from neighbours; nil shares nothing
	Ledger   *peers.Ledger
	Links    Links
	Log      *zap.Logger
	// Origin returns the real address behind the remote address of a connection, which may be synthetic, and whether it
	// belongs to a virtual machine that is connected by vsock.
	Origin func(netip.Addr) (real netip.Addr, guest bool)
	// Admits reports whether a peer is answered at all.
	Admits func(peer.ID) bool
	// Meet is told that a peer which may ask about a hash part does.
	Meet func(peer.ID, store.HashPart)
	// Sent is told of n bytes of a path's NAR, of that size, that are sent to a peer.
	Sent  func(path store.Path, size int64, to string, n int)
	Proxy Proxy
}

// A Proxy answers requests to ask or download from this machine's upstreams for a neighbour.
type Proxy interface {
	AnswerUpstream(context.Context, Client, *bufio.Writer, wire.Request) error
	AnswerFetch(context.Context, Client, *bufio.Writer, wire.Request) error
}

// Links bounds how much is queued for a link.
type Links interface {
	// Admit waits until so many bytes may be queued for a connection, or ctx ends.
	Admit(ctx context.Context, c network.ConnMultiaddrs, size int)
	// Pace returns the bytes a second at which a connection has delivered; 0 is unknown.
	Pace(c network.ConnMultiaddrs) int64
}

// A Server answers the requests of neighbours. Its methods may be called concurrently.
type Server struct {
	*sharer
	serving
	cfg     Config
	quotas  *quotas
	repeats *repeats // unanswered questions

	processors *netmon.Processors
}

// New makes a server that shares what it has. The caller runs it, and closes it at the end.
func New(cfg Config) *Server {
	return &Server{sharer: newSharer(cfg.Sources, cfg.Arriving, cfg.Policy), serving: newServing(cfg.UploadRate), cfg: cfg,
		quotas: newQuotas(cfg.Origin), repeats: newRepeats(), processors: &netmon.Processors{Idle: netmon.IdleProcessors}}
}

// Counts returns what was shared of each kind of path since the start.
func (srv *Server) Counts() map[trust.Kind]KindCount { return srv.counts.all() }

// A Client is a peer that asks, on a connection.
type Client struct {
	conn  network.Conn
	tally *peers.Tally
	quota *peerQuota
}

// ClientOn returns the peer at the other side of a connection.
func (srv *Server) ClientOn(conn network.Conn) Client {
	addr, _ := netmon.IPOf(conn.RemoteMultiaddr())
	id := conn.RemotePeer()
	return Client{conn, srv.cfg.Ledger.TallyOf(id), srv.quotas.peer(id, addr)}
}

// Found takes back the miss that a question has cost: what was asked for is here.
func (c Client) Found() { c.quota.found() }

// SpendProxied takes one question to an upstream from the quotas of the peer and its machine. It returns false if one
// of them has none left.
func (c Client) SpendProxied() bool { return c.quota.spendProxied() }

// Asker returns the peer as one that takes turns.
func (c Client) Asker() Asker { return askerOn(c.conn) }

func askerOn(conn network.Conn) Asker {
	addr, _ := netmon.IPOf(conn.RemoteMultiaddr())
	return Asker{addr, conn.RemotePeer()}
}
