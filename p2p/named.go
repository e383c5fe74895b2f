package p2p

import (
	"context"
	"errors"
	"fmt"

	"github.com/libp2p/go-libp2p/core/peer"

	"narbor/p2p/discovery"
	"narbor/p2p/ping"
)

// Block refuses a peer for good, also after a restart, closes its connections, and returns its ID. A name is a peer ID,
// also of an unknown peer, the last characters of one, or the address of a connected peer. The error wraps
// [discovery.ErrNoPeer] if no peer has that name.
func (n *Node) Block(name string) (id string, err error) {
	p, err := peer.Decode(name)
	if err != nil {
		if p, err = n.lan.PeerCalled(name, n.lan.Host().Network().Peers()); err != nil {
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
	p, err := n.lan.PeerCalled(name, n.ledger.Denied())
	if err != nil {
		return "", err
	}
	if err := n.ledger.Unblock(p); err != nil {
		return "", fmt.Errorf("unblock %s: %w", p, err)
	}
	n.lan.Seek(p)
	return p.String(), nil
}

// Ping measures the connection to a neighbour, see [ping.Pinger.Ping]. The error wraps [discovery.ErrNoPeer] if no
// neighbour has that name; see [Node.Block] for names.
func (n *Node) Ping(ctx context.Context, name string, cfg ping.Config) (ping.Ping, error) {
	var ids []peer.ID
	for _, nb := range n.neighbours.All() {
		ids = append(ids, nb.ID)
	}
	id, err := n.lan.PeerCalled(name, ids)
	nb := n.neighbours.Get(id)
	if err == nil && nb == nil { // it has left meanwhile
		err = fmt.Errorf("%.80q: %w", name, discovery.ErrNoPeer)
	}
	if err != nil {
		return ping.Ping{}, err
	}
	return ping.Pinger{LAN: n.lan, Lookups: n.lookups}.Ping(ctx, nb, cfg), nil
}

// AddPeer looks for a peer from now on, and after each restart. text is a multiaddr, an IP address or a DNS name, with
// or without port. Adding it again does nothing. It is not added, with an error, if text is none of these, if there are
// too many, or if it cannot be saved.
func (n *Node) AddPeer(text string) error { return n.lan.AddPeer(text) }

// RemovePeer ends what AddPeer began, and closes the connections to the peers found there. A peer that is found in
// another way as well comes back. It returns an error if no such peer was added.
func (n *Node) RemovePeer(text string) error { return n.lan.RemovePeer(text) }

// Peers returns the peers that the user named, in the order in which they were given.
func (n *Node) Peers() []discovery.NamedPeer { return n.lan.NamedPeers() }
