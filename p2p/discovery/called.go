package discovery

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"narbor/p2p/netmon"
)

// ErrNoPeer says that no peer has a name that the user gave.
var ErrNoPeer = errors.New("no such peer")

// shortestSuffix is how many characters of a peer ID's end may stand for it: 4 tell apart any neighbours that a person
// can keep apart, and a shorter one is a slip of the hand.
const shortestSuffix = 4

// PeerCalled returns the one of some peers for which a name given by a user stands: a peer ID, the last characters of
// one, or the address of a connected peer. The error wraps [ErrNoPeer] if there is not exactly one.
func (l *LAN) PeerCalled(name string, among []peer.ID) (peer.ID, error) {
	suffix := strings.TrimLeft(strings.TrimPrefix(name, "…"), ".")
	addr, _ := netip.ParseAddr(strings.Trim(name, "[]"))
	var found []peer.ID
	for _, id := range among {
		text := id.String()
		if text == name || len(suffix) >= shortestSuffix && strings.HasSuffix(text, suffix) || addr.IsValid() && l.isAt(id, addr) {
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
func (l *LAN) isAt(id peer.ID, addr netip.Addr) bool {
	h := l.Host()
	addrs := h.Peerstore().Addrs(id)
	for _, c := range h.Network().ConnsToPeer(id) {
		addrs = append(addrs, c.RemoteMultiaddr())
	}
	return slices.ContainsFunc(addrs, func(m ma.Multiaddr) bool {
		a, ok := netmon.IPOf(m)
		return ok && a.WithZone("") == addr.WithZone("")
	})
}
