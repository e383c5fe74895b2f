package discovery

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/sec"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	ma "github.com/multiformats/go-multiaddr"
	"go.uber.org/zap"

	"narbor/p2p/netmon"
	"narbor/p2p/transport"
)

// Conns are the connections with other machines.
type Conns struct {
	Log  *zap.Logger      // has no stand-ins
	Gate *transport.Gater // decides which addresses are dialled and accepted
	host host.Host
	lost func(peer.ID)     // a connection with this peer has ended
	dead chan network.Conn // to be closed by bury
}

// newConns starts the host.
func newConns(cfg transport.Config, hooks Hooks, lost func(peer.ID)) (*Conns, error) {
	gate := transport.NewGater(hooks.Denies, hooks.Arrived)
	cfg.Log = gate.PlainLog(cfg.Log)
	h, err := transport.NewHost(cfg, gate)
	if err != nil {
		return nil, fmt.Errorf("start libp2p: %w", err)
	}
	return &Conns{Log: cfg.Log, Gate: gate, host: h, lost: lost, dead: make(chan network.Conn, 64)}, nil
}

// Host returns the libp2p host.
func (cs *Conns) Host() host.Host { return cs.host }

// CloseAll closes the connections with a peer.
func (cs *Conns) CloseAll(p peer.ID) {
	for _, c := range cs.host.Network().ConnsToPeer(p) {
		cs.discard(c)
	}
}

// forgetTime is how long libp2p takes to forget a connection that is being closed.
const forgetTime = 50 * time.Millisecond

// discard closes a connection, but does not wait for it.
func (cs *Conns) discard(c network.Conn) {
	select {
	case cs.dead <- c:
	default: // many at once: now it has to be waited for
		cs.close(c)
	}
}

// bury closes discarded connections. Each may take writeTimeout, because closing one tells the other side.
func (cs *Conns) bury(ctx context.Context) error {
	var closing sync.WaitGroup
	defer closing.Wait()
	for {
		select {
		case <-ctx.Done():
			return nil
		case c := <-cs.dead:
			closing.Go(func() { cs.close(c) })
		}
	}
}

// close closes a connection. libp2p forgets it at once but reports that only when the other side has been told;
// redialling the peer does not wait for that.
func (cs *Conns) close(c network.Conn) {
	early := time.AfterFunc(forgetTime, func() { cs.lost(c.RemotePeer()) })
	defer early.Stop()
	if err := c.Close(); err != nil {
		cs.Log.Debug("connection not closed well", zap.Stringer("peer", c.RemotePeer()), zap.Error(err))
	}
}

// AddrOf returns the address of a connected peer, with the port that it listens at if that is known, or "".
func (cs *Conns) AddrOf(id peer.ID) string {
	for _, c := range cs.host.Network().ConnsToPeer(id) {
		return cs.Gate.Text(cs.listensAt(c))
	}
	return ""
}

// listensAt returns the address at which the other side of a connection can be reached. Of a connection from there that
// is one that the peer gives with the same IP address; the connection's own port is a temporary one and is left out.
func (cs *Conns) listensAt(c network.Conn) ma.Multiaddr {
	from := c.RemoteMultiaddr()
	remote, ok := netmon.IPOf(from)
	if c.Stat().Direction != network.DirInbound || !ok || cs.Gate.IsVsock(remote) {
		return from
	}
	bare := from[:max(0, slices.IndexFunc(from, func(part ma.Component) bool { return part.Code() == ma.P_TCP }))]
	for _, m := range cs.host.Peerstore().Addrs(c.RemotePeer()) {
		a, aok := netmon.IPOf(m)
		if port, pok := netmon.TCPPort(m); len(m) == 2 && aok && pok && a == remote && port >= netmon.MinPort {
			return bare.Encapsulate(m[1:])
		}
	}
	return bare
}

func (cs *Conns) connected(id peer.ID) bool {
	return cs.host.Network().Connectedness(id) == network.Connected
}

// connect connects to a peer at exactly these addresses, unless it is connected already; at link-local ones only if
// there are no others or these fail.
func (cs *Conns) connect(ctx context.Context, info peer.AddrInfo) error {
	first, last := netmon.ByReach(info.Addrs)
	var err error
	if len(first) > 0 || len(last) == 0 {
		err = cs.connectAt(ctx, peer.AddrInfo{ID: info.ID, Addrs: first})
	}
	if len(last) == 0 || len(first) > 0 && err == nil {
		return err
	}
	last, e := cs.Gate.StandIns(last)
	if len(last) == 0 {
		return errors.Join(err, e)
	}
	if e := cs.connectAt(ctx, peer.AddrInfo{ID: info.ID, Addrs: last}); e != nil {
		return errors.Join(err, e)
	}
	return nil
}

func (cs *Conns) connectAt(ctx context.Context, info peer.AddrInfo) error {
	ctx, cancel := context.WithTimeout(ctx, transport.DialTimeout)
	defer cancel()
	if cs.connected(info.ID) {
		return nil
	}
	if s, ok := cs.host.Network().(*swarm.Swarm); ok {
		s.Backoff().Clear(info.ID) // ours is shorter
	}
	cs.host.Peerstore().ClearAddrs(info.ID) // an address of last week's network would cost the whole timeout
	return cs.Gate.PlainError(cs.host.Connect(ctx, info))
}

// isConnectedTo reports whether there is a connection with an address.
func (cs *Conns) isConnectedTo(a netip.Addr) bool {
	return slices.ContainsFunc(cs.host.Network().Conns(), func(c network.Conn) bool {
		remote, ok := netmon.IPOf(c.RemoteMultiaddr())
		return ok && (remote == a || remote.WithZone("") == a)
	})
}

// connsAt returns the connections with a local address of one of the links.
func (cs *Conns) connsAt(links []netmon.Link) (conns []network.Conn) {
	here := make(map[netip.Addr]bool)
	for _, k := range links {
		for _, p := range k.Addrs {
			here[p.Addr()] = true
		}
	}
	for _, c := range cs.host.Network().Conns() {
		if a, ok := netmon.IPOf(c.LocalMultiaddr()); ok && here[a.WithZone("")] {
			conns = append(conns, c)
		}
	}
	return conns
}

// SeenAt returns the addresses at which this machine has seen a connected peer listen: the addresses at which we
// have reached it, and of those that it gives itself the ones that it comes from. None is link-local IPv6, which means
// nothing to others.
func (cs *Conns) SeenAt(id peer.ID) []netip.AddrPort {
	var out []netip.AddrPort
	for _, c := range cs.host.Network().ConnsToPeer(id) {
		remote, ok := netmon.IPOf(c.RemoteMultiaddr())
		if !ok || !cs.Gate.IsNeighbour(remote) || remote.Is6() && remote.IsLinkLocalUnicast() {
			continue
		}
		listens := []ma.Multiaddr{c.RemoteMultiaddr()}
		if c.Stat().Direction == network.DirInbound {
			listens = cs.host.Peerstore().Addrs(id)
		}
		for _, m := range listens {
			a, aok := netmon.IPOf(m)
			port, pok := netmon.TCPPort(m)
			if aok && pok && a == remote && port >= netmon.MinPort {
				out = append(out, netip.AddrPortFrom(a, port))
				break
			}
		}
	}
	return out
}

// peerAt returns the ID of the peer at an address. A libp2p connection needs an expected ID, so peerAt expects a random
// one, and reads the actual ID from the error of the handshake.
func (cs *Conns) peerAt(ctx context.Context, addrs []ma.Multiaddr) (peer.ID, error) {
	_, pub, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		return "", err
	}
	unknown, err := peer.IDFromPublicKey(pub)
	if err != nil {
		return "", err
	}
	err = cs.connect(ctx, peer.AddrInfo{ID: unknown, Addrs: addrs})
	cs.host.Peerstore().ClearAddrs(unknown)
	if mismatch, ok := errors.AsType[sec.ErrPeerIDMismatch](err); ok {
		return mismatch.Actual, nil
	}
	return "", fmt.Errorf("ask for the peer ID: %w", err)
}
