package meet

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	ma "github.com/multiformats/go-multiaddr"
	"go.uber.org/zap"

	"narbor/p2p/discovery"
	"narbor/p2p/netmon"
	"narbor/p2p/peers"
	"narbor/p2p/wire"
)

// PeersProtocol tells of neighbours; see the package comment.
const PeersProtocol protocol.ID = "/narbor/peers/1"

const (
	// A random neighbour is asked for its neighbours exchangeMin after a peer has joined, and then after pauses that
	// double up to exchangeMax. Two machines that join a third at the same moment do not learn of each other the first
	// time.
	exchangeMin, exchangeMax = time.Second, 5 * time.Minute
)

// An Exchange asks neighbours for their neighbours, and tells them of ours. Its methods may be called concurrently.
type Exchange struct {
	Config
	joined chan struct{} // a neighbour has joined; read by Run
}

// NewExchange starts nothing.
func NewExchange(cfg Config) *Exchange { return &Exchange{cfg, make(chan struct{}, 1)} }

// Joined asks a peer that has become a neighbour for its name and its neighbours, and has Run ask others soon.
func (x *Exchange) Joined(ctx context.Context, id peer.ID) {
	netmon.Hint(x.joined)
	x.ask(ctx, id)
}

// Run asks neighbours for their neighbours, until ctx ends.
func (x *Exchange) Run(ctx context.Context) error {
	pause := exchangeMin
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-x.joined:
			pause = exchangeMin
		case <-time.After(pause*3/4 + rand.N(pause/2)):
			pause = min(2*pause, exchangeMax)
			if all := x.Neighbours.All(); len(all) > 0 {
				x.ask(ctx, all[rand.IntN(len(all))].ID)
			}
		}
	}
}

// ask asks a neighbour for its name and its neighbours, if it supports that.
func (x *Exchange) ask(ctx context.Context, id peer.ID) {
	h := x.LAN.Host()
	if ok, err := h.Peerstore().SupportsProtocols(id, PeersProtocol); err != nil || len(ok) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(network.WithNoDial(ctx, "neighbours are connected"), peersTimeout)
	defer cancel()
	s, err := h.NewStream(ctx, id, PeersProtocol)
	if err != nil {
		x.LAN.Log.Debug("neighbour does not tell of others", zap.Stringer("peer", id), zap.Error(err))
		return
	}
	name, addrs, err := askPeersOn(ctx, s)
	if errors.Is(err, wire.ErrWire) {
		x.Ledger.Strike(id, err)
	}
	if err != nil {
		s.Reset()
		x.LAN.Log.Debug("neighbour does not tell of others", zap.Stringer("peer", id), zap.Error(err))
		return
	}
	s.Close()
	x.Ledger.TallyOf(id).SetName(name)
	for _, m := range addrs {
		x.LAN.Dialer.Hear(m, discovery.ViaExchange)
	}
}

func askPeersOn(ctx context.Context, s network.Stream) (name string, addrs []ma.Multiaddr, err error) {
	deadline, _ := ctx.Deadline()
	if err := s.SetDeadline(deadline); err != nil {
		return "", nil, err
	}
	if err := s.CloseWrite(); err != nil { // the stream itself is the question
		return "", nil, err
	}
	br := bufio.NewReader(s)
	if name, err = readName(br); err != nil {
		return "", nil, err
	}
	addrs, err = readPeers(br)
	return name, addrs, err
}

// readName reads the name at the beginning of an answer. It may be any text.
func readName(br *bufio.Reader) (string, error) {
	size, err := wire.ReadUvarint(br, peers.MaxName)
	if err != nil {
		return "", err
	}
	b := make([]byte, size)
	_, err = io.ReadFull(br, b)
	return string(b), noEOF(err)
}

// noEOF turns the end of a stream in the middle of an answer into an error of its own.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

func appendName(b []byte, name string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(name))), name...)
}

// readPeers reads the rest of an answer. Whether the addresses are to be dialled is for others to say.
func readPeers(br *bufio.Reader) ([]ma.Multiaddr, error) {
	count, err := wire.ReadUvarint(br, maxToldPeers)
	if err != nil {
		return nil, err
	}
	out := make([]ma.Multiaddr, 0, count)
	for range count {
		size, err := wire.ReadUvarint(br, maxPeerAddr)
		if err != nil {
			return nil, err
		}
		b := make([]byte, size)
		if _, err := io.ReadFull(br, b); err != nil {
			return nil, noEOF(err)
		}
		m, err := ma.NewMultiaddrBytes(b)
		if err != nil {
			return nil, fmt.Errorf("%w: no multiaddr", wire.ErrWire)
		}
		out = append(out, m)
	}
	return out, nil
}

func appendPeers(b []byte, addrs []ma.Multiaddr) []byte {
	b = binary.AppendUvarint(b, uint64(len(addrs)))
	for _, m := range addrs {
		b = append(binary.AppendUvarint(b, uint64(len(m.Bytes()))), m.Bytes()...)
	}
	return b
}

// Serve tells a peer our name, and of our neighbours.
func (x *Exchange) Serve(ctx context.Context, s network.Stream) {
	stop := context.AfterFunc(ctx, func() { s.Reset() })
	defer stop()
	id := s.Conn().RemotePeer()
	if !x.Group.Has(id) {
		s.ResetWithError(peers.ErrOutsider)
		return
	}
	if !x.Ledger.TallyOf(id).Tellings.Allow() {
		s.ResetWithError(network.StreamResourceLimitExceeded)
		return
	}
	err := s.SetDeadline(time.Now().Add(peersTimeout))
	if err == nil {
		_, err = s.Write(appendPeers(appendName(nil, x.Name), x.peersFor(s.Conn())))
	}
	if err != nil {
		s.Reset()
		return
	}
	s.Close()
}

// peersFor chooses what the peer on a connection is told: neighbours on the link that it is on, each with an address
// that we know ourselves. What others told us of is not passed on until we are connected to it.
func (x *Exchange) peersFor(c network.Conn) []ma.Multiaddr {
	asker, ok := netmon.IPOf(c.RemoteMultiaddr())
	if !ok {
		return nil
	}
	all := x.Neighbours.All()
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	var out []ma.Multiaddr
	for _, nb := range all {
		if len(out) == maxToldPeers {
			break
		}
		if nb.ID == c.RemotePeer() {
			continue
		}
		for _, a := range x.LAN.SeenAt(nb.ID) {
			if x.LAN.Gate.ShareLink(asker, a.Addr()) {
				if m, err := netmon.PeerAddr(a, nb.ID); err == nil {
					out = append(out, m)
					break
				}
			}
		}
	}
	return out
}
