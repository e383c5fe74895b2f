// Package transport makes the libp2p host: what it listens on, and which peers and addresses may connect.
//
// A host listens on TCP, over IPv4 and IPv6, and for guests by vsock. Connections are secured by TLS 1.3 with the
// peer's ed25519 key, or by Noise if the other side prefers it, and yamux carries their streams. Limits on connections,
// streams and memory hold for each peer, for each address and for all peers together.
//
// A [Gater] decides which addresses are dialled and accepted: those on the links that it was given, and those of peers
// that the user named. libp2p dials neither link-local addresses nor vsock, so the gater gives it stand-ins, which
// [Gater.Text], [Gater.PlainError] and [Gater.PlainLog] replace in all that is shown. The gater also knows the sockets
// below libp2p's connections: it lets the kernel watch them, and bounds what lies in their queues.
//
// [NewHost] starts listening; closing the host ends all connections and goroutines. A Gater may be used concurrently.
package transport

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"syscall"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/core/sec"
	"github.com/libp2p/go-libp2p/core/transport"
	"github.com/libp2p/go-libp2p/gologshim"
	basichost "github.com/libp2p/go-libp2p/p2p/host/basic"
	"github.com/libp2p/go-libp2p/p2p/host/eventbus"
	"github.com/libp2p/go-libp2p/p2p/host/peerstore/pstoremem"
	"github.com/libp2p/go-libp2p/p2p/host/pstoremanager"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/net/connmgr"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/libp2p/go-libp2p/p2p/net/upgrader"
	"github.com/libp2p/go-libp2p/p2p/protocol/identify"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/libp2p/go-libp2p/x/rate"
	ma "github.com/multiformats/go-multiaddr"
	"go.uber.org/zap"

	"narbor/p2p/netmon"
)

// Limits of connections.
const (
	// maxMemory bounds the buffers that libp2p holds for all peers together.
	maxMemory = 256 << 20
	// firstWindow is what a stream may send before the receiver answers; lastWindow is what that can grow to, enough
	// for 2.5 Gbit/s at 13 ms.
	firstWindow, lastWindow = 1 << 20, 4 << 20
	// connsHigh and connsLow: when there are more than the one, idle connections are closed down to the other.
	connsHigh, connsLow = 160, 128
	// connsPerIP leaves room for the virtual machines behind one address.
	connsPerIP = 32
	// keepAlive and writeTimeout together are how long a pulled cable goes unnoticed at most: 8 s with some room. On
	// Linux the kernel sees to that.
	keepAlive, writeTimeout = 4 * time.Second, 3 * time.Second
	// measureRTT is how often yamux measures the way to a peer and back, by which it sizes windows. On a LAN that
	// hardly changes, and it wakes both sides.
	measureRTT = time.Hour
	// connsGrace is the minimum age of a connection that is closed because there are too many, and the interval of the
	// check.
	connsGrace = 30 * time.Second
	// DialTimeout is generous for a LAN, where a connection takes milliseconds, but a sleeping disk or a loaded
	// guest may take a second for the handshake.
	DialTimeout = 3 * time.Second
	// dialsPerSecond and dialBurst bound how fast one address may connect to us anew.
	dialsPerSecond, dialBurst = 2, 64
)

// yamuxMessage is the largest piece that one stream sends at a time: a block.
const yamuxMessage = 256 << 10

// Config has the parts and settings of a host.
type Config struct {
	Identity  crypto.PrivKey // required
	Port      uint16         // TCP; 0 picks one
	UserAgent string         // is sent to peers by identify
	// Transport takes the place of TCP; nil is TCP and, where there is one, vsock.
	Transport func(transport.Upgrader, network.ResourceManager) (transport.Transport, error)
	// Conns is the limit on connections. Streams is the limit on streams that all peers together have opened, and
	// PeerStreams on those between this machine and one peer, in each direction. All are required.
	Conns, Streams, PeerStreams int
	Log                         *zap.Logger  // required
	Libp2pLog                   slog.Handler // for libp2p's own messages, of the whole process; nil discards
}

// NewHost starts a libp2p host that listens on TCP, over IPv4 and, if the machine has it, IPv6. It is put together here
// and not by libp2p.New, which brings all that there is into the program: QUIC, WebRTC and their like take twelve
// megabytes of it, and AutoNAT asks neighbours how they see this machine from the internet.
func NewHost(cfg Config, gate *Gater) (host.Host, error) {
	logLibp2p(cfg.Libp2pLog)
	limits, err := newResourceManager(cfg)
	if err != nil {
		return nil, fmt.Errorf("resource manager: %w", err)
	}
	conns, err := connmgr.NewConnManager(connsLow, connsHigh, connmgr.WithGracePeriod(connsGrace), connmgr.WithSilencePeriod(connsGrace))
	if err != nil {
		return nil, fmt.Errorf("connection manager: %w", err)
	}
	bus := eventbus.NewBus()
	sw, err := newSwarm(cfg, gate, limits, bus)
	if err != nil {
		return nil, err
	}
	q := &quietHost{}
	q.BasicHost, err = basichost.NewHost(sw, &basichost.HostOpts{EventBus: bus, ConnManager: conns, DisableSignedPeerRecord: true,
		AddrsFactory: func([]ma.Multiaddr) []ma.Multiaddr { return gate.announceable(ListenPort(q)) },
		UserAgent:    cfg.UserAgent, EnablePing: true})
	if err != nil {
		return nil, errors.Join(err, sw.Close())
	}
	if err = q.start(); err == nil {
		err = listen(q, cfg.Port, cfg.Log)
	}
	if err != nil {
		return nil, errors.Join(err, q.Close())
	}
	return q, nil
}

// A quietHost is libp2p's own without its check of this machine's addresses every five seconds, which would be a fifth
// of the work of a machine at rest. A change of the addresses is announced on the event bus instead.
type quietHost struct {
	*basichost.BasicHost
	peers *pstoremanager.PeerstoreManager
}

// start takes the place of [basichost.BasicHost.Start].
func (q *quietHost) start() (err error) {
	if q.peers, err = pstoremanager.NewPeerstoreManager(q.Peerstore(), q.EventBus(), q.Network(),
		pstoremanager.WithCleanupInterval(time.Minute)); err != nil {
		return err
	}
	q.peers.Start()
	q.IDService().Start()
	return nil
}

// Close closes the host, and all connections.
func (q *quietHost) Close() error {
	var err error
	if q.peers != nil {
		err = q.peers.Close()
	}
	return errors.Join(err, q.BasicHost.Close())
}

// newSwarm makes the part of libp2p that dials and accepts.
func newSwarm(cfg Config, gate *Gater, limits network.ResourceManager, bus event.Bus) (*swarm.Swarm, error) {
	id, err := peer.IDFromPrivateKey(cfg.Identity)
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	known, err := pstoremem.NewPeerstore()
	if err != nil {
		return nil, err
	}
	if err := errors.Join(known.AddPrivKey(id, cfg.Identity), known.AddPubKey(id, cfg.Identity.GetPublic())); err != nil {
		return nil, err
	}
	muxers := []upgrader.StreamMuxer{{ID: yamux.ID, Muxer: newMuxer(gate, cfg.Transport == nil)}}
	tls, err := newTimeless(libp2ptls.ID, cfg.Identity, muxers)
	if err != nil {
		return nil, err
	}
	noisy, err := noise.New(noise.ID, cfg.Identity, muxers)
	if err != nil {
		return nil, err
	}
	up, err := upgrader.New([]sec.SecureTransport{tls, noisy}, muxers, nil, limits, gate)
	if err != nil {
		return nil, err
	}
	t, err := newTransport(cfg, gate, up, limits)
	if err != nil {
		return nil, err
	}
	sw, err := swarm.NewSwarm(id, known, bus, swarm.WithConnectionGater(gate), swarm.WithResourceManager(limits),
		swarm.WithDialTimeout(DialTimeout), swarm.WithDialTimeoutLocal(DialTimeout),
		swarm.WithUDPBlackHoleSuccessCounter(nil),
		swarm.WithIPv6BlackHoleSuccessCounter(nil)) // it gives up on global IPv6 addresses, which neighbours may have
	if err != nil {
		return nil, err
	}
	return sw, sw.AddTransport(t)
}

// newTransport makes the transports of connections: TCP and vsock, unless the config has another one.
func newTransport(cfg Config, gate *Gater, up transport.Upgrader, limits network.ResourceManager) (transport.Transport, error) {
	if cfg.Transport != nil {
		return cfg.Transport(up, limits)
	}
	t, err := tcp.NewTCPTransport(up, limits, nil,
		tcp.WithConnectionTimeout(DialTimeout),
		tcp.WithDialerForAddr(func(ma.Multiaddr) (tcp.ContextDialer, error) { return gate, nil }),
		tcp.DisableReuseport()) // with it, a second narbor on this port would take half of the first one's connections
	return carrier{t, gate.standIns, up}, err
}

// listen opens the same port on both families. A machine may lack one of them, but not both.
func listen(h host.Host, port uint16, log *zap.Logger) error {
	sw, ok := h.Network().(*swarm.Swarm)
	if !ok {
		return fmt.Errorf("listen: %T is not a swarm", h.Network())
	}
	var missing error
	for _, ip := range []string{"/ip4/0.0.0.0", "/ip6/::"} {
		addr, err := ma.NewMultiaddr(ip + "/tcp/" + strconv.Itoa(int(port)))
		if err != nil {
			return err
		}
		switch err := sw.AddListenAddr(addr); {
		case errors.Is(err, syscall.EADDRINUSE):
			return fmt.Errorf("TCP port %d is taken, perhaps by another narbor; --port chooses another: %w", port, err)
		case err != nil:
			log.Info("an address family is missing", zap.Stringer("addr", addr), zap.Error(err))
			missing = errors.Join(missing, err)
		case port == 0:
			port = ListenPort(h)
		}
	}
	if ListenPort(h) == 0 {
		return missing
	}
	return nil
}

// ListenVsock has a host accept connections of guests, at the number of its TCP port.
func ListenVsock(h host.Host, gate *Gater) error {
	addr, err := netmon.TCPAddr(gate.VsockAddr(vsockAny), ListenPort(h))
	if err != nil {
		return err
	}
	sw, ok := h.Network().(*swarm.Swarm)
	if !ok {
		return fmt.Errorf("listen: %T is not a swarm", h.Network())
	}
	return gate.PlainError(sw.AddListenAddr(addr))
}

// ListenPort returns the TCP port that h listens on, or 0.
func ListenPort(h host.Host) uint16 {
	for _, a := range h.Network().ListenAddresses() {
		text, err := a.ValueForProtocol(ma.P_TCP)
		if err != nil {
			continue
		}
		if n, err := strconv.ParseUint(text, 10, 16); err == nil {
			return uint16(n)
		}
	}
	return 0
}

// A muxer is yamux, and makes sure of the other side itself where the kernel does not: TCP has keep-alive, vsock has
// none.
type muxer struct {
	network.Multiplexer // for TCP
	vsock               network.Multiplexer
	gate                *Gater
}

// newMuxer makes a muxer. kernel means that connections are sockets, so that the kernel can watch them.
func newMuxer(gate *Gater, kernel bool) muxer {
	m := *yamux.DefaultTransport
	m.MeasureRTTInterval = measureRTT
	m.ConnectionWriteTimeout = writeTimeout
	m.MaxMessageSize = yamuxMessage
	m.InitialStreamWindowSize = firstWindow
	m.MaxStreamWindowSize = lastWindow
	watched, unwatched := m, m
	watched.KeepAliveInterval, unwatched.KeepAliveInterval = muxerAlive, keepAlive
	if !kernel {
		watched = unwatched
	}
	return muxer{&watched, &unwatched, gate}
}

// NewConn implements [network.Multiplexer].
func (m muxer) NewConn(c net.Conn, server bool, scope network.PeerScope) (network.MuxedConn, error) {
	if a, ok := c.RemoteAddr().(*net.TCPAddr); ok && m.gate.IsVsock(a.AddrPort().Addr()) {
		return m.vsock.NewConn(c, server, scope)
	}
	return m.Multiplexer.NewConn(c, server, scope)
}

// newResourceManager counts each neighbour for itself. libp2p's own limits take all of an IPv6 /56, so a whole
// LAN and more, for one host that may have eight connections.
func newResourceManager(cfg Config) (network.ResourceManager, error) {
	base := rcmgr.DefaultLimits
	conns, streams, peerStreams := rcmgr.LimitVal(cfg.Conns), rcmgr.LimitVal(cfg.Streams), rcmgr.LimitVal(cfg.PeerStreams)
	limitServices(&base)
	limits := rcmgr.PartialLimitConfig{
		System: rcmgr.ResourceLimits{
			Conns: conns, ConnsInbound: conns, ConnsOutbound: conns, FD: conns,
			Streams: 2 * streams, StreamsInbound: streams, StreamsOutbound: streams,
			Memory: maxMemory,
		},
		ProtocolDefault: rcmgr.ResourceLimits{ // or ten peers with 64 streams each would take all there are
			Streams: 2 * streams, StreamsInbound: streams, StreamsOutbound: streams,
			Memory: maxMemory,
		},
		Transient: rcmgr.ResourceLimits{Conns: 128, ConnsInbound: 96, ConnsOutbound: 64, FD: 128, Memory: maxMemory / 4},
		PeerDefault: rcmgr.ResourceLimits{
			Conns: 6, ConnsInbound: 4, ConnsOutbound: 4, FD: 6,
			Streams: 2 * peerStreams, StreamsInbound: peerStreams, StreamsOutbound: peerStreams,
			Memory: maxMemory / 4,
		},
	}.Build(base.Scale(maxMemory, cfg.Conns))
	return rcmgr.NewResourceManager(rcmgr.NewFixedLimiter(limits),
		rcmgr.WithMetricsDisabled(),
		rcmgr.WithLimitPerSubnet(
			[]rcmgr.ConnLimitPerSubnet{{PrefixLength: 32, ConnCount: connsPerIP}},
			[]rcmgr.ConnLimitPerSubnet{{PrefixLength: 128, ConnCount: connsPerIP}}),
		rcmgr.WithConnRateLimiters(newConnRateLimiter()))
}

// limitServices bounds what identify and ping may have under way, all together and with one peer, as libp2p.New would.
func limitServices(base *rcmgr.ScalingLimitConfig) {
	many := rcmgr.BaseLimit{StreamsInbound: 64, StreamsOutbound: 64, Streams: 128, Memory: 4 << 20}
	some := rcmgr.BaseLimit{StreamsInbound: 16, StreamsOutbound: 16, Streams: 32, Memory: 1 << 20}
	few := rcmgr.BaseLimit{StreamsInbound: 2, StreamsOutbound: 3, Streams: 4, Memory: 1 << 20}
	each := rcmgr.BaseLimitIncrease{StreamsInbound: 64, StreamsOutbound: 64, Streams: 128, Memory: 4 << 20}
	base.AddServiceLimit(identify.ServiceName, many, each)
	base.AddServicePeerLimit(identify.ServiceName, some, rcmgr.BaseLimitIncrease{})
	base.AddServiceLimit(ping.ServiceName, many, each)
	base.AddServicePeerLimit(ping.ServiceName, few, rcmgr.BaseLimitIncrease{})
	for _, id := range []protocol.ID{identify.ID, identify.IDPush} {
		base.AddProtocolLimit(id, many, each)
		base.AddProtocolPeerLimit(id, some, rcmgr.BaseLimitIncrease{})
	}
	base.AddProtocolLimit(ping.ID, many, each)
	base.AddProtocolPeerLimit(ping.ID, few, rcmgr.BaseLimitIncrease{})
}

func newConnRateLimiter() *rate.Limiter {
	limit := rate.Limit{RPS: dialsPerSecond, Burst: dialBurst}
	return &rate.Limiter{
		NetworkPrefixLimits: []rate.PrefixLimit{ // this machine is not limited
			{Prefix: netip.MustParsePrefix("127.0.0.0/8")},
			{Prefix: netip.MustParsePrefix("::1/128")},
		},
		SubnetRateLimiter: rate.SubnetLimiter{
			IPv4SubnetLimits: []rate.SubnetLimit{{PrefixLength: 32, Limit: limit}},
			IPv6SubnetLimits: []rate.SubnetLimit{{PrefixLength: 128, Limit: limit}},
			GracePeriod:      time.Minute,
		},
	}
}

// logLibp2p gives libp2p's own messages, one for each refused dial among them, to h, or drops them if h is nil. Each of
// libp2p's loggers keeps the handler that it finds at its first message.
func logLibp2p(h slog.Handler) {
	if h == nil {
		h = slog.DiscardHandler
	}
	gologshim.SetDefaultHandler(h)
}
