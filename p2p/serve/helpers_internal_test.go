package serve

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	"go.uber.org/zap"

	"narbor/p2p/peers"
	"narbor/p2p/wire"
	"narbor/store"
	"narbor/store/storetest"
	"narbor/trust"
	"narbor/trust/trusttest"
)

var (
	eventually = storetest.Eventually
	fileNAR    = storetest.FileNAR
)

func blockRequest(info store.Info, i int) wire.Request {
	return wire.Request{Kind: wire.AskBlock, HashParts: []store.HashPart{info.Path.HashPart()}, NAR: info.NarHash, Block: i}
}

// newTestServer makes a server of sources, on a link without bounds.
func newTestServer(t testing.TB, keys *trust.Keys, sources ...store.Source) *Server {
	t.Helper()
	srv := New(Config{Sharing: Sharing{Sources: sources, Policy: trust.Policy{Keys: keys}}, Arriving: &arrivals{},
		Ledger: peers.NewLedger("", zap.NewNop()),
		Links:  freeLinks{},
		Log:    zap.NewNop(), Origin: func(a netip.Addr) (netip.Addr, bool) { return a, false }, Admits: func(peer.ID) bool { return true },
		Meet: func(peer.ID, store.HashPart) {}, Sent: func(store.Path, int64, string, int) {}})
	t.Cleanup(srv.Close)
	return srv
}

// sharing is a server of one path.
func sharing(t testing.TB, nar []byte) (*Server, store.Info) {
	t.Helper()
	s := trusttest.NewSigner(t)
	info, _ := s.Sign(t, "shared", nar)
	mem := new(store.Mem)
	mem.Add(info, nar)
	return newTestServer(t, s.Keys, mem), info
}

// arrivals has one NAR that is being received, or none, and nothing in the spool.
type arrivals struct {
	store.Source
	m trust.Mapping
}

func (a *arrivals) Info(_ context.Context, hp store.HashPart) (store.Info, error) {
	if a.m.NarSize() == 0 || a.m.Path().HashPart() != hp {
		return store.Info{}, store.ErrNotFound
	}
	return a.m.Info(), nil
}

func (a *arrivals) Partial(hp store.HashPart) Partial {
	if _, err := a.Info(context.Background(), hp); err != nil {
		return nil
	}
	return arrival{a.m}
}

func (a *arrivals) Has(store.Hash) bool { return false }

// arrivalWait is how long an arrival waits for a block, which does not come.
const arrivalWait = time.Second

// An arrival is a NAR of which nothing has come yet.
type arrival struct{ m trust.Mapping }

func (a arrival) Mapping() (trust.Mapping, bool)     { return a.m, true }
func (a arrival) Have() wire.Bitmap                  { return wire.NewBitmap(store.NumBlocks(a.m.NarSize())) }
func (a arrival) ReadBlock(int, []byte) (int, error) { return 0, wire.ErrLater }

func (a arrival) Await(ctx context.Context, _ int) {
	ctx, cancel := context.WithTimeout(ctx, arrivalWait)
	defer cancel()
	<-ctx.Done()
}

// freeLinks bound nothing.
type freeLinks struct{}

func (freeLinks) Admit(context.Context, network.ConnMultiaddrs, int) {}
func (freeLinks) Pace(network.ConnMultiaddrs) int64                  { return 0 }

// connFrom is a connection from an address.
type connFrom struct {
	network.Conn
	addr netip.Addr
	id   peer.ID
}

func (c connFrom) RemotePeer() peer.ID { return c.id }

func (c connFrom) RemoteMultiaddr() ma.Multiaddr {
	ip, err := manet.FromIP(c.addr.WithZone("").AsSlice())
	if err != nil {
		panic(err)
	}
	if c.addr.Zone() != "" {
		ip = ma.StringCast("/ip6zone/" + c.addr.Zone()).Encapsulate(ip)
	}
	return ip.Encapsulate(ma.StringCast("/tcp/1"))
}

// A pipe is the server's end of a stream.
type pipe struct {
	network.Stream
	end  net.Conn
	from connFrom
}

func (p pipe) Read(b []byte) (int, error)                   { return p.end.Read(b) }
func (p pipe) Write(b []byte) (int, error)                  { return p.end.Write(b) }
func (p pipe) Close() error                                 { return p.end.Close() }
func (p pipe) SetWriteDeadline(t time.Time) error           { return p.end.SetWriteDeadline(t) }
func (p pipe) Conn() network.Conn                           { return p.from }
func (p pipe) Reset() error                                 { return p.end.Close() }
func (p pipe) ResetWithError(network.StreamErrorCode) error { return p.end.Close() }

// dial opens a stream to a server from a peer at an address, which stays open until the test ends.
func dial(t testing.TB, srv *Server, id peer.ID, addr string) net.Conn {
	t.Helper()
	near, far := net.Pipe()
	served := make(chan struct{})
	go func() {
		defer close(served)
		srv.Serve(context.WithoutCancel(t.Context()), pipe{end: far, from: connFrom{addr: netip.MustParseAddr(addr), id: id}})
	}()
	t.Cleanup(func() {
		near.Close()
		<-served
	})
	return near
}

// send sends requests one after the other, without waiting for the server to read them.
func send(c net.Conn, requests ...wire.Request) {
	var b []byte
	for _, r := range requests {
		b = r.Append(b)
	}
	go c.Write(b)
}
