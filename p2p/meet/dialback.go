package meet

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"narbor/p2p/netmon"
	"narbor/p2p/peers"
	"narbor/p2p/transport"
	"narbor/p2p/wire"
	"narbor/store/lru"
)

// DialBackProtocol asks a neighbour to connect to the asker; see the package comment.
const DialBackProtocol protocol.ID = "/narbor/dialback/1"

// An outcome is the answer to a request for a dial-back.
type outcome byte

const (
	declined outcome = iota // the address is not a neighbour's, or this machine may not connect
	reached
	refused
	timedOut
	tooOften
)

// Results of a dial-back, as [DialBack] has them.
const (
	DialReached  = "reached" // the neighbour's connection has arrived here
	DialRefused  = "refused" // this machine, or something on the way, rejected it
	DialTimedOut = "timed-out"
	DialTooOften = "too-often" // the neighbour has been asked too often of late
	DialDeclined = "declined"
	// DialUnconfirmed means that the neighbour reports a connection, and none has arrived here.
	DialUnconfirmed = "unconfirmed"
	DialNoAnswer    = "no-answer"
)

// A DialBack is the result of asking one neighbour to connect to this machine.
type DialBack struct {
	Interface string `json:"interface"` // of this machine, on which the neighbour is
	Addr      string `json:"addr"`      // of this machine, on that interface
	Result    string `json:"result"`
}

// DialBacks asks neighbours to connect to this machine, and connects to those that ask for it. These connections have
// quotas by address and in total. Its methods may be called concurrently.
type DialBacks struct {
	Config
	quotas *dialBackQuotas
}

// NewDialBacks starts nothing.
func NewDialBacks(cfg Config) *DialBacks { return &DialBacks{cfg, newDialBackQuotas()} }

// Ask asks neighbours on each link, at most [maxDialBacks] for each address family, to connect to this machine's
// listening port. A connection counts as arrived once this machine has accepted it, whatever the neighbour reports.
func (b *DialBacks) Ask(ctx context.Context) []DialBack {
	port := transport.ListenPort(b.LAN.Host())
	if port < netmon.MinPort {
		return nil
	}
	ctx, cancel := context.WithTimeout(network.WithNoDial(ctx, "neighbours are connected"), dialBackWait)
	defer cancel()
	all := b.Neighbours.All()
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	var mu sync.Mutex
	var out []DialBack
	var asking sync.WaitGroup
	for _, nb := range chooseDialBacks(all, b.link) {
		asking.Go(func() {
			if d, ok := b.askOne(ctx, nb.ID, port); ok {
				mu.Lock()
				defer mu.Unlock()
				out = append(out, d)
			}
		})
	}
	asking.Wait()
	return out
}

// chooseDialBacks returns the first [maxDialBacks] neighbours of each link; "" is no link.
func chooseDialBacks(all []*peers.Neighbour, linkOf func(peer.ID) string) (chosen []*peers.Neighbour) {
	count := map[string]int{}
	for _, nb := range all {
		if l := linkOf(nb.ID); l != "" && count[l] < maxDialBacks {
			count[l]++
			chosen = append(chosen, nb)
		}
	}
	return chosen
}

// link returns the interface and the address family of the connection to a neighbour that can dial back, or "".
func (b *DialBacks) link(id peer.ID) string {
	if ok, err := b.LAN.Host().Peerstore().SupportsProtocols(id, DialBackProtocol); err != nil || len(ok) == 0 {
		return ""
	}
	for _, c := range b.LAN.Host().Network().ConnsToPeer(id) {
		remote, ok := netmon.IPOf(c.RemoteMultiaddr())
		local, lok := netmon.IPOf(c.LocalMultiaddr())
		if ok && lok && b.LAN.Gate.IsNeighbour(remote) {
			return fmt.Sprint(b.LAN.Gate.InterfaceOf(local), remote.Is4())
		}
	}
	return ""
}

// askOne asks one neighbour. It reports false for a connection that is on none of the links.
func (b *DialBacks) askOne(ctx context.Context, id peer.ID, port uint16) (DialBack, bool) {
	s, err := b.LAN.Host().NewStream(ctx, id, DialBackProtocol)
	if err != nil {
		b.LAN.Log.Debug("neighbour does not dial back", zap.Stringer("peer", id), zap.Error(err))
		return DialBack{}, false
	}
	remote, ok := netmon.IPOf(s.Conn().RemoteMultiaddr())
	local, lok := netmon.IPOf(s.Conn().LocalMultiaddr())
	if !ok || !lok || !b.LAN.Gate.IsNeighbour(remote) {
		s.Reset()
		return DialBack{}, false
	}
	arrived, forget := b.Arrivals.await(remote)
	defer forget()
	d := DialBack{Interface: b.LAN.Gate.InterfaceOf(local), Addr: local.String()}
	o, err := askDialBackOn(ctx, s, port)
	if errors.Is(err, wire.ErrWire) {
		b.Ledger.Strike(id, err)
	}
	if err != nil {
		s.Reset()
		b.LAN.Log.Debug("neighbour does not dial back", zap.Stringer("peer", id), zap.Error(err))
		d.Result = confirm(DialNoAnswer, arrived)
		return d, true
	}
	s.Close()
	d.Result = confirm(o.String(), arrived)
	return d, true
}

// confirm compares what a neighbour reports with the connection that has arrived, or has not.
func confirm(result string, arrived <-chan struct{}) string {
	if result == DialReached { // the kernel has the connection, and libp2p may need a moment to accept it
		select {
		case <-arrived:
		case <-time.After(arrivalGrace):
			result = DialUnconfirmed
		}
	}
	select {
	case <-arrived:
		return DialReached
	default:
		return result
	}
}

func (o outcome) String() string {
	switch o {
	case reached:
		return DialReached
	case refused:
		return DialRefused
	case timedOut:
		return DialTimedOut
	case tooOften:
		return DialTooOften
	}
	return DialDeclined
}

func askDialBackOn(ctx context.Context, s network.Stream, port uint16) (outcome, error) {
	deadline, _ := ctx.Deadline()
	if err := s.SetDeadline(deadline); err != nil {
		return 0, err
	}
	if _, err := s.Write(appendDialBack(nil, port)); err != nil {
		return 0, err
	}
	if err := s.CloseWrite(); err != nil {
		return 0, err
	}
	return readOutcome(bufio.NewReader(s))
}

func appendDialBack(b []byte, port uint16) []byte { return binary.AppendUvarint(b, uint64(port)) }

func readDialBack(br *bufio.Reader) (uint16, error) {
	port, err := wire.ReadUvarint(br, 1<<16-1)
	if err != nil {
		return 0, err
	}
	if port < netmon.MinPort {
		return 0, fmt.Errorf("%w: port %d is below %d", wire.ErrWire, port, netmon.MinPort)
	}
	return uint16(port), nil
}

func readOutcome(br *bufio.Reader) (outcome, error) {
	b, err := br.ReadByte()
	if err != nil {
		return 0, noEOF(err)
	}
	if outcome(b) > tooOften {
		return 0, fmt.Errorf("%w: a dial-back cannot end with %d", wire.ErrWire, b)
	}
	return outcome(b), nil
}

// Serve connects to the peer that asks for it, and sends it the result.
func (b *DialBacks) Serve(ctx context.Context, s network.Stream) {
	stop := context.AfterFunc(ctx, func() { s.Reset() })
	defer stop()
	id := s.Conn().RemotePeer()
	if !b.Group.Has(id) {
		s.ResetWithError(peers.ErrOutsider)
		return
	}
	err := s.SetDeadline(time.Now().Add(dialBackWait))
	var port uint16
	if err == nil {
		port, err = readDialBack(bufio.NewReader(s))
	}
	if errors.Is(err, wire.ErrWire) {
		b.Ledger.CountRefused(err)
		b.Ledger.Strike(id, err)
		s.ResetWithError(network.StreamProtocolViolation)
		return
	}
	if err == nil {
		_, err = s.Write([]byte{byte(b.dial(ctx, s.Conn(), port))})
	}
	if err != nil {
		s.Reset()
		return
	}
	s.Close()
}

// dial connects to the other end of a connection, at that port, if it is on one of the links and has not asked too
// often.
func (b *DialBacks) dial(ctx context.Context, c network.ConnMultiaddrs, port uint16) outcome {
	remote, ok := netmon.IPOf(c.RemoteMultiaddr())
	local, lok := netmon.IPOf(c.LocalMultiaddr())
	if !ok || !lok || b.Simulated || !b.LAN.Gate.IsNeighbour(remote) {
		return declined
	}
	if !b.quotas.allow(remote, time.Now()) {
		return tooOften
	}
	return tryDial(ctx, local, netip.AddrPortFrom(remote, port))
}

// tryDial opens a TCP connection from a local address, and closes it at once. The kernel chooses the local port, so
// that no firewall takes the connection for part of another.
func tryDial(ctx context.Context, local netip.Addr, to netip.AddrPort) outcome {
	ctx, cancel := context.WithTimeout(ctx, dialBackTimeout)
	defer cancel()
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(local, 0))}
	conn, err := d.DialContext(ctx, "tcp", to.String())
	if err == nil {
		conn.Close()
		return reached
	}
	for _, no := range []syscall.Errno{syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EHOSTUNREACH, syscall.ENETUNREACH,
		syscall.EACCES} {
		if errors.Is(err, no) {
			return refused
		}
	}
	if slow, ok := errors.AsType[net.Error](err); ok && slow.Timeout() {
		return timedOut
	}
	return declined
}

// dialBackQuotas are the budgets of connections that are made on request.
type dialBackQuotas struct {
	all *rate.Limiter

	mu   sync.Mutex // guards each
	each *lru.Cache[netip.Addr, *rate.Limiter]
}

func newDialBackQuotas() *dialBackQuotas {
	each := lru.New[netip.Addr, *rate.Limiter](maxDialBackAddrs)
	return &dialBackQuotas{all: rate.NewLimiter(dialBackRate, dialBackBurst), each: each}
}

// allow takes one connection to an address from the remaining budget.
func (d *dialBackQuotas) allow(a netip.Addr, now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	own, ok := d.each.Get(a)
	if !ok {
		own = rate.NewLimiter(dialBackAddrRate, dialBackAddrBurst)
		d.each.Add(a, own)
	}
	return own.AllowN(now, 1) && d.all.AllowN(now, 1)
}
