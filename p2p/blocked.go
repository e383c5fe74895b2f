package p2p

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"narbor/p2p/netmon"
)

// ErrNoPeer says that no peer has a name that the user gave.
var ErrNoPeer = errors.New("no such peer")

// shortestSuffix is how many characters of a peer ID's end may stand for it: 4 tell apart any neighbours that a person
// can keep apart, and a shorter one is a slip of the hand.
const shortestSuffix = 4

// Block refuses a peer for good, also after a restart, closes its connections, and returns its ID. A name is a peer ID,
// also of an unknown peer, the last characters of one, or the address of a connected peer. The error wraps [ErrNoPeer]
// if no peer has that name.
func (n *Node) Block(name string) (id string, err error) {
	p, err := peer.Decode(name)
	if err != nil {
		if p, err = peerNamed(n.lan.Host(), name, n.lan.Host().Network().Peers()); err != nil {
			return "", err
		}
	}
	if p == n.lan.Host().ID() {
		return "", errors.New("that is this machine itself")
	}
	if err := n.ledger.Block(p); err != nil {
		return "", fmt.Errorf("block %s: %w", p, err)
	}
	return p.String(), nil
}

// Unblock undoes Block, and ends a ban for strikes. The peer is named as for Block.
func (n *Node) Unblock(name string) (id string, err error) {
	p, err := peerNamed(n.lan.Host(), name, n.ledger.Denied())
	if err != nil {
		return "", err
	}
	if err := n.ledger.Unblock(p); err != nil {
		return "", fmt.Errorf("unblock %s: %w", p, err)
	}
	n.lan.Seek(p)
	return p.String(), nil
}

// peerNamed returns the peer for which a name given by a user stands.
func peerNamed(h host.Host, name string, among []peer.ID) (peer.ID, error) {
	suffix := strings.TrimLeft(strings.TrimPrefix(name, "…"), ".")
	addr, _ := netip.ParseAddr(strings.Trim(name, "[]"))
	var found []peer.ID
	for _, id := range among {
		text := id.String()
		if text == name || len(suffix) >= shortestSuffix && strings.HasSuffix(text, suffix) || addr.IsValid() && isAt(h, id, addr) {
			if !slices.Contains(found, id) {
				found = append(found, id)
			}
		}
	}
	switch len(found) {
	case 0:
		return "", fmt.Errorf("%.80q: %w", name, ErrNoPeer)
	case 1:
		return found[0], nil
	}
	return "", fmt.Errorf("%.80q: %w: %d peers go by that; give more of the ID", name, ErrNoPeer, len(found))
}

// isAt says whether a connected peer is at that address: by a connection, or by its own word.
func isAt(h host.Host, id peer.ID, addr netip.Addr) bool {
	addrs := h.Peerstore().Addrs(id)
	for _, c := range h.Network().ConnsToPeer(id) {
		addrs = append(addrs, c.RemoteMultiaddr())
	}
	return slices.ContainsFunc(addrs, func(m ma.Multiaddr) bool {
		a, ok := netmon.IPOf(m)
		return ok && a.WithZone("") == addr.WithZone("")
	})
}
