package meet

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"go.uber.org/zap"

	"narbor/p2p/discovery"
	"narbor/p2p/netmon"
	"narbor/p2p/p2ptest"
	"narbor/p2p/peers"
	"narbor/p2p/transport"
	"narbor/p2p/wire"
)

func FuzzReadDialBack(f *testing.F) {
	f.Add([]byte{0x80, 0x08})
	f.Add([]byte{0xff, 0xff, 0x03})
	f.Add([]byte{0x80, 0x80, 0x04})
	f.Fuzz(func(t *testing.T, in []byte) {
		port, err := readDialBack(bufio.NewReader(bytes.NewReader(in)))
		if err != nil {
			return
		}
		if out := appendDialBack(nil, port); port < netmon.MinPort || !bytes.HasPrefix(in, out) {
			t.Errorf("readDialBack(%x) = %d, which is written as %x", in, port, out)
		}
	})
}

func FuzzReadOutcome(f *testing.F) {
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, in []byte) {
		o, err := readOutcome(bufio.NewReader(bytes.NewReader(in)))
		if err == nil && (o > tooOften || in[0] != byte(o)) {
			t.Errorf("readOutcome(%x) = %d", in, o)
		}
	})
}

func TestDialBackFramesAreBounded(t *testing.T) {
	for _, port := range []uint16{0, 22, 1023} {
		if got, err := readDialBack(bufio.NewReader(bytes.NewReader(appendDialBack(nil, port)))); !errors.Is(err, wire.ErrWire) {
			t.Errorf("readDialBack of port %d = %d, %v, want errWire", port, got, err)
		}
	}
	for _, port := range []uint16{1024, 6273, 65535} {
		if got, err := readDialBack(bufio.NewReader(bytes.NewReader(appendDialBack(nil, port)))); got != port || err != nil {
			t.Errorf("readDialBack of port %d = %d, %v", port, got, err)
		}
	}
	if got, err := readDialBack(bufio.NewReader(bytes.NewReader([]byte{0x80, 0x80, 0x04}))); !errors.Is(err, wire.ErrWire) {
		t.Errorf("readDialBack of port 65536 = %d, %v, want errWire", got, err)
	}
	if got, err := readOutcome(bufio.NewReader(bytes.NewReader([]byte{byte(tooOften) + 1}))); !errors.Is(err, wire.ErrWire) {
		t.Errorf("readOutcome of an unknown byte = %d, %v, want errWire", got, err)
	}
}

func TestDialBackOutcomes(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	to := netip.MustParseAddrPort(l.Addr().String())
	over, cancel := context.WithDeadline(t.Context(), time.Unix(1, 0))
	defer cancel()
	if got := tryDial(t.Context(), to.Addr(), to); got != reached {
		t.Errorf("dialling an open port: %s, want %s", got, reached)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(c); len(b) > 0 || err != nil {
		t.Errorf("the connection brings %x, %v, want nothing and its end", b, err)
	}
	c.Close()
	if got := tryDial(over, to.Addr(), to); got != timedOut {
		t.Errorf("dialling after the deadline: %s, want %s", got, timedOut)
	}
	l.Close()
	if got := tryDial(t.Context(), to.Addr(), to); got != refused {
		t.Errorf("dialling a closed port: %s, want %s", got, refused)
	}
}

func TestDialBackIsGivenUp(t *testing.T) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	local := netip.MustParseAddr("127.0.0.1")
	to := netip.AddrPortFrom(local, uint16(name.(*syscall.SockaddrInet4).Port))
	for i := 0; ; i++ { // until its queue is full, and the kernel drops what comes
		conn, err := net.DialTimeout("tcp", to.String(), dialBackTimeout/8)
		if err != nil {
			break
		}
		defer conn.Close()
		if i == 10 {
			t.Skip("this kernel answers for a socket that accepts nothing")
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	defer time.AfterFunc(5*dialBackTimeout, cancel).Stop()
	got := reached
	for range 10 {
		if got = tryDial(ctx, local, to); got != reached { // the loop above may have ended early on a busy machine
			break
		}
	}
	if got != timedOut {
		t.Errorf("dialling a port that does not answer: %s, want %s", got, timedOut)
	}
}

// A talk is a connection between two addresses.
type talk struct{ local, remote ma.Multiaddr }

func (c talk) LocalMultiaddr() ma.Multiaddr  { return c.local }
func (c talk) RemoteMultiaddr() ma.Multiaddr { return c.remote }

func TestDialBackKeepsToTheLink(t *testing.T) {
	l, err := discovery.New(discovery.Config{},
		transport.Config{Identity: p2ptest.NewIdentity(t), Conns: 8, Streams: 8, PeerStreams: 8, Log: zap.NewNop()},
		discovery.Hooks{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Host().Close()
	b := NewDialBacks(Config{LAN: l})
	l.Gate.SetLinks([]netmon.Link{p2ptest.Link("lo", "127.0.0.1/8"), p2ptest.Link("eth0", "10.1.0.5/24", "fd01::5/64", "169.254.1.1/16")})
	l.Gate.SetNamed("nas", []netip.Addr{netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("192.0.2.1")})
	for _, remote := range []string{"/ip4/127.0.0.1", "/ip4/127.0.0.2", "/ip4/8.8.8.8", "/ip4/10.1.1.6", "/ip4/10.1.0.5", "/ip6/fd01::5",
		"/ip4/169.254.169.254", "/ip4/192.0.2.1", "/ip6/fe80::1", "/ip6/::1", "/ip6/ff02::1"} {
		c := talk{ma.StringCast("/ip4/10.1.0.5/tcp/6273"), ma.StringCast(remote + "/tcp/40000")}
		if got := b.dial(t.Context(), c, 6273); got != declined {
			t.Errorf("dial-back to %s: %s, want %s", remote, got, declined)
		}
	}
	if left := b.quotas.all.Tokens(); left < dialBackBurst {
		t.Errorf("declined dial-backs have used up %v of the quota", dialBackBurst-left)
	}
	b.quotas.all.AllowN(time.Now(), dialBackBurst)
	if got := b.dial(t.Context(), talk{ma.StringCast("/ip4/10.1.0.5/tcp/6273"), ma.StringCast("/ip4/10.1.0.6/tcp/40000")},
		6273); got != tooOften {
		t.Errorf("dial-back to a neighbour without a quota: %s, want %s", got, tooOften)
	}
}

func TestDialBacksHaveAQuota(t *testing.T) {
	d := newDialBackQuotas()
	now := time.Now()
	allowed := func(addrs int) (n int) {
		for i := range addrs {
			if d.allow(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), now) {
				n++
			}
		}
		return n
	}
	one := 0
	for range 100 {
		one += allowed(1)
	}
	if one != dialBackAddrBurst {
		t.Errorf("one address is dialled %d times at once, want %d", one, dialBackAddrBurst)
	}
	if all := one + allowed(1000); all != dialBackBurst {
		t.Errorf("a thousand addresses are dialled %d times at once, want %d", all, dialBackBurst)
	}
	if now = now.Add(time.Minute); allowed(1) != 1 {
		t.Error("an address is not dialled again a minute later")
	}
}

// A lying neighbour reports a connection that it has not made, or conceals one.
func TestReportedDialBackIsConfirmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var v Arrivals
		a := netip.MustParseAddr("10.1.0.6")
		arrived, forget := v.await(a)
		for _, r := range []string{DialRefused, DialTimedOut, DialDeclined, DialNoAnswer} {
			if got := confirm(r, arrived); got != r {
				t.Errorf("%s without a connection = %s", r, got)
			}
		}
		v.Note(netip.MustParseAddr("10.1.0.7"))
		if got := confirm(DialReached, arrived); got != DialUnconfirmed {
			t.Errorf("%s without a connection = %s, want %s", DialReached, got, DialUnconfirmed)
		}
		forget()
		arrived, forget = v.await(a)
		go func() {
			time.Sleep(arrivalGrace / 2)
			v.Note(a)
		}()
		if got := confirm(DialReached, arrived); got != DialReached {
			t.Errorf("%s with a connection half a grace later = %s", DialReached, got)
		}
		if got := confirm(DialTimedOut, arrived); got != DialReached {
			t.Errorf("%s with a connection = %s, want %s", DialTimedOut, got, DialReached)
		}
		forget()
		if len(v.from) > 0 {
			t.Errorf("%v is kept after the questions have ended", v.from)
		}
	})
}

func TestDialBackNeighboursAreFewForEachLink(t *testing.T) {
	var all []*peers.Neighbour
	links := map[peer.ID]string{}
	for i := range 20 {
		nb := &peers.Neighbour{ID: peer.ID(fmt.Sprint(i))}
		all, links[nb.ID] = append(all, nb), []string{"eth0", "wlan0", ""}[i%3]
	}
	if got := chooseDialBacks(all, func(id peer.ID) string { return links[id] }); len(got) != 2*maxDialBacks {
		t.Errorf("%d neighbours of two links are asked, want %d", len(got), 2*maxDialBacks)
	}
}
