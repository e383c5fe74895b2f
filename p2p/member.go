package p2p

import (
	"context"
	"errors"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"narbor/p2p/peers"
	"narbor/p2p/wire"
)

// mayBeNeighbour says whether a connected peer speaks what we speak, and has proved to be in our group if we have one.
// If it has not, it begins to meet it; watch is told when that has ended well.
func (n *Node) mayBeNeighbour(ctx context.Context, id peer.ID) bool {
	store := n.lan.Host().Peerstore()
	supported, err := store.SupportsProtocols(id, n.group.Protocol(), peers.GroupProtocol, wire.ProtocolID)
	if err != nil || len(supported) == 0 || n.lan.Host().Network().Connectedness(id) != network.Connected {
		return false
	}
	for _, p := range supported {
		if p != n.group.Protocol() {
			continue
		}
		if n.group.Has(id) {
			return true
		}
		n.introduce(ctx, id)
		return false
	}
	n.noteOutsider(id)
	return false
}

// introduce proves to a peer that we are in its group, in the background.
func (n *Node) introduce(ctx context.Context, id peer.ID) {
	if !n.group.Begins(id) {
		return
	}
	if !n.background.begin() {
		n.group.Ends(id)
		return
	}
	go func() {
		defer n.background.running.Done()
		err := n.group.Meet(ctx, id)
		n.group.Ends(id)
		n.met(ctx, id, err)
	}()
}

// met records how a proof ended.
func (n *Node) met(ctx context.Context, id peer.ID, err error) {
	switch {
	case errors.Is(err, peers.ErrOtherGroup):
		n.noteOutsider(id)
	case err != nil:
		n.log.Debug("neighbour has proved nothing", zap.Stringer("peer", id), zap.Error(err))
	default:
		select {
		case n.joined <- id:
		case <-ctx.Done():
		}
	}
}

// serveGroup answers a peer that proves to be in our group.
func (n *Node) serveGroup(ctx context.Context, s network.Stream) {
	stop := context.AfterFunc(ctx, func() { s.Reset() })
	defer stop()
	n.met(ctx, s.Conn().RemotePeer(), n.group.Answer(s))
}

// noteOutsider remembers that a peer is not in our group, and logs it once: it is no liar, and stays around.
func (n *Node) noteOutsider(id peer.ID) {
	t := n.ledger.TallyOf(id)
	t.Outsider.Store(true)
	if !t.Told.Swap(true) {
		n.log.Info("neighbour is of another group: nothing is asked or answered", zap.Stringer("peer", id),
			zap.String("addr", n.lan.addrOf(id)))
	}
}

// outsiders are the connected peers of other groups.
func (n *Node) outsiders() []Outsider {
	out := []Outsider{}
	for _, id := range n.lan.Host().Network().Peers() {
		if n.ledger.TallyOf(id).Outsider.Load() {
			out = append(out, Outsider{id.String(), n.lan.addrOf(id)})
		}
	}
	return out
}
