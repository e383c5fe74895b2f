package greet

import (
	"context"
	"errors"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"narbor/p2p/discovery"
	"narbor/p2p/peers"
	"narbor/p2p/wire"
	"narbor/store/flight"
)

// members tells the connected peers that are in the same group as this machine from those that are not. Its methods may
// be called concurrently.
type members struct {
	*peers.Group // nil is no group
	ledger       *peers.Ledger
	lan          *discovery.LAN
	life         *flight.Life
	joined       chan peer.ID // receives the peers that have proved to be in the group
	log          *zap.Logger
}

// admitOrProve reports whether a connected peer speaks our protocol, and has proved to be in our group if we have one.
// If it has not, the proof begins; joined receives the peer when it has succeeded.
func (mb *members) admitOrProve(ctx context.Context, id peer.ID) bool {
	store := mb.lan.Host().Peerstore()
	supported, err := store.SupportsProtocols(id, mb.Protocol(), peers.GroupProtocol, wire.ProtocolID)
	if err != nil || len(supported) == 0 || mb.lan.Host().Network().Connectedness(id) != network.Connected {
		return false
	}
	for _, p := range supported {
		if p != mb.Protocol() {
			continue
		}
		if mb.Has(id) {
			return true
		}
		mb.introduce(ctx, id)
		return false
	}
	mb.noteOutsider(id)
	return false
}

// introduce proves to a peer that we are in its group, and does not wait for that.
func (mb *members) introduce(ctx context.Context, id peer.ID) {
	if !mb.BeginProof(id) {
		return
	}
	if !mb.life.Go(func() {
		err := mb.ProveTo(ctx, id)
		mb.EndProof(id)
		mb.met(ctx, id, err)
	}) {
		mb.EndProof(id)
	}
}

func (mb *members) met(ctx context.Context, id peer.ID, err error) {
	switch {
	case errors.Is(err, peers.ErrOtherGroup):
		mb.noteOutsider(id)
	case err != nil:
		mb.log.Debug("neighbour has proved nothing", zap.Stringer("peer", id), zap.Error(err))
	default:
		select {
		case mb.joined <- id:
		case <-ctx.Done():
		}
	}
}

// serve answers a peer that proves to be in our group.
func (mb *members) serve(ctx context.Context, s network.Stream) {
	stop := context.AfterFunc(ctx, func() { s.Reset() })
	defer stop()
	mb.met(ctx, s.Conn().RemotePeer(), mb.Answer(s))
}

// noteOutsider remembers that a peer is not in our group, and logs it once: it is no liar, and stays around.
func (mb *members) noteOutsider(id peer.ID) {
	t := mb.ledger.TallyOf(id)
	t.Outsider.Store(true)
	if !t.Told.Swap(true) {
		mb.log.Info("neighbour is of another group: nothing is asked or answered", zap.Stringer("peer", id),
			zap.String("addr", mb.lan.AddrOf(id)))
	}
}

// Outsider is a connected peer of another group, or one without a group if we have one, or the other way round.
type Outsider struct {
	ID   string `json:"id"`
	Addr string `json:"addr"`
}

func (mb *members) outsiders() []Outsider {
	out := []Outsider{}
	for _, id := range mb.lan.Host().Network().Peers() {
		if mb.ledger.TallyOf(id).Outsider.Load() {
			out = append(out, Outsider{id.String(), mb.lan.AddrOf(id)})
		}
	}
	return out
}
