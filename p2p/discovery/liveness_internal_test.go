package discovery

import (
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"narbor/p2p/netmon"
	"narbor/p2p/p2ptest"
)

// The machines that a prefix made neighbours are let go when it goes, though both its and their other address stay. The
// one that the user named stays.
func TestPrefixThatGoesTakesItsNeighbours(t *testing.T) {
	t.Parallel()
	n := newTestNet(t)
	host := n.up("10.77.0.1/16")
	named := n.up("10.77.9.3/16").start(childConfig{})
	a := host.start(childConfig{Peers: []string{"10.77.9.3"}})
	far := n.up("10.77.9.2/16").start(childConfig{}) // may dial or be dialled
	near := n.up("10.77.0.4/16").start(childConfig{})
	for _, c := range []*testChild{named, far, near} {
		c.wait("up "+a.id, time.Minute)
	}
	host.ip("addr", "add", "10.77.0.1/24", "dev", "eth0")
	// Without a route of its own the named machine could not be reached either.
	host.ip("route", "add", "10.77.9.3/32", "dev", "eth0", "src", "10.77.0.1")
	host.ip("addr", "del", "10.77.0.1/16", "dev", "eth0")
	_, took := a.wait("down "+far.id, 4*time.Second) // the address is there all the time: TCP would see nothing
	t.Logf("let go after %v", took)
	stays(a, n.up("10.77.0.5/24"), near.id, named.id)
}

// stays waits until a has met a new machine, and fails the test if any of these was lost before.
func stays(a *testChild, late *testHost, ids ...string) {
	a.t.Helper()
	l := late.start(childConfig{})
	for timeout := time.After(20 * time.Second); ; {
		select {
		case e := <-a.events:
			if strings.HasPrefix(e, "up "+l.id) {
				return
			}
			for _, id := range ids {
				if strings.HasPrefix(e, "down "+id) {
					a.t.Errorf("lost %s, which is still there", id)
				}
			}
		case <-timeout:
			a.t.Fatal("a new machine is not met within a minute")
		}
	}
}

// A cable that is out for a moment costs no connection.
func TestCableOutForAMoment(t *testing.T) {
	t.Parallel()
	n := newTestNet(t)
	host := n.up("10.77.0.1/24")
	a := host.start(childConfig{})
	b := n.up("10.77.0.2/24").start(childConfig{})
	a.wait("up "+b.id, time.Minute)
	n.ip("-n", n.name, "link", "set", host.port, "down")
	a.wait("cable false", time.Minute)
	n.ip("-n", n.name, "link", "set", host.port, "up")
	stays(a, n.up("10.77.0.3/24"), b.id)
}

func TestConnectionsOfLinksAreProbed(t *testing.T) {
	a, _ := startTestLAN(t, Config{})
	b, _ := startTestLAN(t, Config{Peers: []string{loopback(a)}})
	waitConnected(t, b, a.host.ID())
	c := b.host.Network().ConnsToPeer(a.host.ID())[0]
	if got := b.connsAt([]netmon.Link{p2ptest.Link("lo", "127.0.0.1/8")}); len(got) != 1 || got[0] != c {
		t.Errorf("connections at 127.0.0.1: %v, want %v", got, c)
	}
	if got := b.connsAt([]netmon.Link{p2ptest.Link("eth0", "10.0.0.1/8")}); len(got) != 0 {
		t.Errorf("connections at 10.0.0.1: %v, want none", got)
	}
	if !isAlive(t.Context(), c) {
		t.Error("a neighbour that is there does not answer a probe")
	}
}

// A neighbour that does not answer any more, though its kernel does, is found out.
func TestMuteNeighbourIsNotAlive(t *testing.T) {
	a, _ := startTestLAN(t, Config{})
	between, mute := muteable(t, loopback(a))
	b, _ := startTestLAN(t, Config{Peers: []string{between}})
	waitConnected(t, b, a.host.ID())
	c := b.host.Network().ConnsToPeer(a.host.ID())[0]
	if !isAlive(t.Context(), c) {
		t.Fatal("it does not answer before it is mute")
	}
	mute()
	lost := make(chan struct{}, 1)
	b.host.Network().Notify(&network.NotifyBundle{DisconnectedF: func(network.Network, network.Conn) { netmon.Hint(lost) }})
	start := time.Now()
	b.liveness.suspect([]network.Conn{c})
	select {
	case <-lost:
		t.Logf("given up after %v", time.Since(start))
	case <-time.After(silence - time.Second): // which is when yamux would
		t.Error("not given up")
	}
}

// muteable passes on what comes to an address, until mute is called: then it takes everything and passes on nothing.
func muteable(t *testing.T, to string) (addr string, mute func()) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	var muted atomic.Bool
	pass := func(dst, src net.Conn) {
		defer dst.Close()
		buf := make([]byte, 4096)
		for {
			n, err := src.Read(buf)
			if err != nil {
				return
			}
			if !muted.Load() {
				dst.Write(buf[:n])
			}
		}
	}
	go func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				in.Close()
				continue
			}
			go pass(in, out)
			go pass(out, in)
		}
	}()
	return listener.Addr().String(), func() { muted.Store(true) }
}
