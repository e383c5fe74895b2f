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
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/sec"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	ma "github.com/multiformats/go-multiaddr"
	"go.uber.org/zap"

	"narbor/p2p/netmon"
	"narbor/p2p/transport"
)

// closeAll closes the connections with a peer.
func (l *LAN) CloseAll(p peer.ID) {
	for _, c := range l.host.Network().ConnsToPeer(p) {
		l.discard(c)
	}
}

// forgetTime is how long libp2p takes to forget a connection that is being closed.
const forgetTime = 50 * time.Millisecond

// discard closes a connection, but does not wait for it.
func (l *LAN) discard(c network.Conn) {
	select {
	case l.dead <- c:
	default: // many at once: now it has to be waited for
		l.close(c)
	}
}

// bury closes discarded connections. Each may take writeTimeout, because closing one tells the other side.
func (l *LAN) bury(ctx context.Context) error {
	var closing sync.WaitGroup
	defer closing.Wait()
	for {
		select {
		case <-ctx.Done():
			return nil
		case c := <-l.dead:
			closing.Go(func() { l.close(c) })
		}
	}
}

// close closes a connection. libp2p forgets it at once but reports that only when the other side has been told;
// redialling the peer does not wait for that.
func (l *LAN) close(c network.Conn) {
	early := time.AfterFunc(forgetTime, func() { l.lost(c.RemotePeer()) })
	defer early.Stop()
	if err := c.Close(); err != nil {
		l.Log.Debug("connection not closed well", zap.Stringer("peer", c.RemotePeer()), zap.Error(err))
	}
}

// addrOf returns the address of a connected peer, with the port that it listens at if that is known, or "".
func (l *LAN) AddrOf(id peer.ID) string {
	for _, c := range l.host.Network().ConnsToPeer(id) {
		return l.Gate.Text(l.listensAt(c))
	}
	return ""
}

// listensAt returns the address at which the other side of a connection can be reached. Of a connection from there that is
// one that the peer gives with the same IP address; the connection's own port is a temporary one and is left out.
func (l *LAN) listensAt(c network.Conn) ma.Multiaddr {
	from := c.RemoteMultiaddr()
	remote, ok := netmon.IPOf(from)
	if c.Stat().Direction != network.DirInbound || !ok || l.Gate.IsVsock(remote) {
		return from
	}
	bare := from[:max(0, slices.IndexFunc(from, func(part ma.Component) bool { return part.Code() == ma.P_TCP }))]
	for _, m := range l.host.Peerstore().Addrs(c.RemotePeer()) {
		a, aok := netmon.IPOf(m)
		if port, pok := netmon.TCPPort(m); len(m) == 2 && aok && pok && a == remote && port >= netmon.MinPort {
			return bare.Encapsulate(m[1:])
		}
	}
	return bare
}

func (l *LAN) connected(id peer.ID) bool {
	return l.host.Network().Connectedness(id) == network.Connected
}

// connect connects to a peer at exactly these addresses, unless it is connected already; at link-local ones only if there
// are no others or these fail.
func (l *LAN) connect(ctx context.Context, info peer.AddrInfo) error {
	first, last := netmon.ByReach(info.Addrs)
	var err error
	if len(first) > 0 || len(last) == 0 {
		err = l.connectAt(ctx, peer.AddrInfo{ID: info.ID, Addrs: first})
	}
	if len(last) == 0 || len(first) > 0 && err == nil {
		return err
	}
	last, e := l.Gate.StandIns(last)
	if len(last) == 0 {
		return errors.Join(err, e)
	}
	if e := l.connectAt(ctx, peer.AddrInfo{ID: info.ID, Addrs: last}); e != nil {
		return errors.Join(err, e)
	}
	return nil
}

func (l *LAN) connectAt(ctx context.Context, info peer.AddrInfo) error {
	ctx, cancel := context.WithTimeout(ctx, transport.DialTimeout)
	defer cancel()
	if l.connected(info.ID) {
		return nil
	}
	if s, ok := l.host.Network().(*swarm.Swarm); ok {
		s.Backoff().Clear(info.ID) // ours is shorter
	}
	l.host.Peerstore().ClearAddrs(info.ID) // an address of last week's network would cost the whole timeout
	return l.Gate.PlainError(l.host.Connect(ctx, info))
}

// isConnectedTo reports whether there is a connection with an address.
func (l *LAN) isConnectedTo(a netip.Addr) bool {
	for _, c := range l.host.Network().Conns() {
		if remote, ok := netmon.IPOf(c.RemoteMultiaddr()); ok && (remote == a || remote.WithZone("") == a) {
			return true
		}
	}
	return false
}

// connsAt returns the connections with a local address of one of the links.
func (l *LAN) connsAt(links []netmon.Link) (conns []network.Conn) {
	here := make(map[netip.Addr]bool)
	for _, k := range links {
		for _, p := range k.Addrs {
			here[p.Addr()] = true
		}
	}
	for _, c := range l.host.Network().Conns() {
		if a, ok := netmon.IPOf(c.LocalMultiaddr()); ok && here[a.WithZone("")] {
			conns = append(conns, c)
		}
	}
	return conns
}

// seenAt returns where a connected peer listens, as far as we have seen it there ourselves: the addresses at which we
// have reached it, and of those that it gives itself the ones that it comes from. None is link-local IPv6, which means
// nothing to others.
func (l *LAN) SeenAt(id peer.ID) []netip.AddrPort {
	var out []netip.AddrPort
	for _, c := range l.host.Network().ConnsToPeer(id) {
		remote, ok := netmon.IPOf(c.RemoteMultiaddr())
		if !ok || !l.Gate.IsNeighbour(remote) || remote.Is6() && remote.IsLinkLocalUnicast() {
			continue
		}
		candidates := []ma.Multiaddr{c.RemoteMultiaddr()}
		if c.Stat().Direction == network.DirInbound {
			candidates = l.host.Peerstore().Addrs(id)
		}
		for _, m := range candidates {
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

// hearsay takes an address of a peer that another peer has sent: one on our links, and a port that is not a router's or
// a printer's own.
func (l *LAN) hearsay(m ma.Multiaddr, via string, expiry time.Time) (announcement, bool) {
	id, addr, ok := netmon.SplitPeerAddr(m)
	if !ok || id == l.host.ID() {
		return announcement{}, false
	}
	ip, ok := netmon.IPOf(addr)
	if !ok || !l.Gate.IsNeighbour(ip) {
		return announcement{}, false
	}
	return announcement{id: id, addrs: []ma.Multiaddr{addr}, expiry: expiry, via: via}, true
}

// part closes the connections to these peers.
func (l *LAN) part(ids []peer.ID) {
	for _, id := range ids {
		for _, c := range l.host.Network().ConnsToPeer(id) {
			l.discard(c)
		}
	}
}

// whoIs returns the ID of the peer at an address. A libp2p connection needs an expected ID, so whoIs expects a random
// one, and reads the actual ID from the error of the handshake.
func (l *LAN) whoIs(ctx context.Context, addrs []ma.Multiaddr) (peer.ID, error) {
	_, pub, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		return "", err
	}
	stranger, err := peer.IDFromPublicKey(pub)
	if err != nil {
		return "", err
	}
	err = l.connect(ctx, peer.AddrInfo{ID: stranger, Addrs: addrs})
	l.host.Peerstore().ClearAddrs(stranger)
	var mismatch sec.ErrPeerIDMismatch
	if errors.As(err, &mismatch) {
		return mismatch.Actual, nil
	}
	return "", fmt.Errorf("ask for the peer ID: %w", err)
}

// hear has a peer looked for at an address that another peer has sent, or that is remembered.
func (l *LAN) Hear(m ma.Multiaddr, via string, now time.Time) {
	if a, ok := l.hearsay(m, via, now.Add(hearsayFor)); ok && !l.connected(a.id) {
		l.Dialer.announce(a, now)
	}
}
