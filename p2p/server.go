package p2p

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
)

// A server answers the requests of neighbours. Its methods may be called concurrently.
type server struct {
	*sharer
	serving
	quotas  *quotas
	repeats *repeats // unanswered questions
	ledger  *peers.Ledger
	log     *zap.Logger

	links linkQueues
	// admits reports whether a peer is answered at all.
	admits func(peer.ID) bool
	// meet is told that a peer which may ask about a hash part does.
	meet func(peer.ID, store.HashPart)
	// sent is told of n bytes of a path's NAR, of that size, that are sent to a peer.
	sent func(path store.Path, size int64, to string, n int)
	// onUpstream and onFetch answer what is asked of this machine as a proxy.
	onUpstream, onFetch func(context.Context, client, *bufio.Writer, wire.Request) error
}

// linkQueues bounds how much is queued for a link.
type linkQueues interface {
	// Admit waits until so many bytes may be queued for a connection, or ctx ends.
	Admit(ctx context.Context, c network.ConnMultiaddrs, size int)
	// Pace returns the bytes a second at which a connection has delivered; 0 is unknown.
	Pace(c network.ConnMultiaddrs) int64
}

// A client is a peer that asks, on a connection.
type client struct {
	conn  network.Conn
	tally *peers.Tally
	quota *peerQuota
}

// clientOn returns the peer at the other side of a connection.
func (srv *server) clientOn(conn network.Conn) client {
	addr, _ := netmon.IPOf(conn.RemoteMultiaddr())
	id := conn.RemotePeer()
	return client{conn, srv.ledger.TallyOf(id), srv.quotas.peer(id, addr)}
}

// asker returns the peer as one that takes turns.
func (c client) asker() asker { return askerOn(c.conn) }

func askerOn(conn network.Conn) asker {
	addr, _ := netmon.IPOf(conn.RemoteMultiaddr())
	return asker{addr, conn.RemotePeer()}
}

// An origin tells what is at the other side of a connection: the address that a synthetic one stands for, and whether that is
// a virtual machine that is connected by vsock.
type origin func(netip.Addr) (real netip.Addr, guest bool)
