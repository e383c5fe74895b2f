package transport

import (
	"context"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"narbor/store/storetest"

	manet "github.com/multiformats/go-multiaddr/net"
)

// connected returns a TCP connection of ours that p knows, with bytes sent over it and received.
func connected(t *testing.T, p *paces) manet.Conn {
	c, _ := connectedPair(t, p)
	return c
}

func connectedPair(t *testing.T, p *paces) (manet.Conn, net.Conn) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	c, err := p.DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	other, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { other.Close() })
	const size = 4 << 20
	go c.Write(make([]byte, size))
	if _, err := io.ReadFull(other, make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	m, err := manet.WrapNetConn(c)
	if err != nil {
		t.Fatal(err)
	}
	return m, other
}

func TestPaceOfAConnection(t *testing.T) {
	p := newPaces()
	c := connected(t, p)
	if rate := p.Pace(c); rate < 1<<20 {
		t.Errorf("loopback delivers %d bytes a second, says the kernel", rate)
	}
	c.Close()
	other := connected(t, p)
	if len(p.conns) != 1 {
		t.Errorf("%d connections are known, want the open one", len(p.conns))
	}
	if p.Pace(other) == 0 {
		t.Error("the pace of the second connection is unknown")
	}
}

// Bytes are acknowledged by the other side's kernel, whether a program reads them or not.
func TestAcknowledgementsAreKnown(t *testing.T) {
	p := newPaces()
	c := connected(t, p)
	sent := time.Now()
	for limit := sent.Add(storetest.AtMost(20 * time.Second)); ; time.Sleep(time.Millisecond) {
		if _, err := c.Write([]byte{1}); err != nil {
			t.Fatal(err)
		}
		if ago, ok := p.SinceAck(c); !ok {
			t.Fatal("it is not known when something was acknowledged")
		} else if ago < time.Since(sent) {
			break
		} else if time.Now().After(limit) {
			t.Fatalf("something was acknowledged %v ago, and bytes were sent since", ago)
		}
	}
	c.Close()
	if _, ok := p.SinceAck(c); ok {
		t.Error("it is known of a closed connection when something was acknowledged")
	}
}

func TestABurstIsNotThePaceOfALink(t *testing.T) {
	const link, burst = 118 << 20, 400 << 20
	var p pace
	for i, rate := range []int64{burst, link, burst, burst, link, burst} {
		p.sample(rate)
		if got, want := p.bytesPerSecond(), int64(link); i > 0 && got != want {
			t.Errorf("after sample %d: %d bytes per second, want %d", i, got, want)
		}
	}
	for range paceSamples {
		p.sample(burst)
	}
	if got := p.bytesPerSecond(); got != burst {
		t.Errorf("a link that has become faster: %d bytes per second, want %d", got, burst)
	}
}

func TestNextBlockFollowsBeforeTheQueueIsEmpty(t *testing.T) {
	const block = 256 << 10
	for _, c := range []struct {
		mbit, queued, size int64
		want               bool
	}{
		{1, 0, block, true}, {1, 5_000, block, false}, // a block takes 2 s
		{20, 40_000, block, true}, {20, 60_000, block, false}, {20, 60_000, 50_000, true},
		{100, 64_000, block, true}, {100, 100_000, block, false}, {100, 100_000, block / 2, true},
		{1000, 64_000, block, true}, {1000, 2_000_000, block, true}, {1000, 2_400_000, block, false},
	} {
		room := c.mbit * 1e6 / 8 * int64(queueTime) / int64(time.Second)
		if got := admits(c.queued, c.size, room); got != c.want {
			t.Errorf("at %d Mbit/s, admits(%d, %d) = %v, want %v", c.mbit, c.queued, c.size, got, c.want)
		}
	}
}

func TestQueueOfAConnectionIsBounded(t *testing.T) {
	p := newPaces()
	c, other := connectedPair(t, p)
	known := p.conns[paceKey(c)]
	if own, shared := p.fits(known, 1<<20); !own || !shared {
		t.Error("nothing is queued, and yet a block does not fit")
	}
	known.written += 1 << 40 // of streams that were reset: it is never sent
	fits := func() bool { own, shared := p.fits(known, 1<<20); return own && shared }
	for limit := time.Now().Add(10 * time.Second); !fits(); { // the last acknowledgement may be under way
		if time.Now().After(limit) {
			t.Fatal("the kernel has nothing to send, and yet a block does not fit")
		}
	}
	// The other side stops reading, and the kernel is left with bytes to send.
	stuck := make(chan struct{})
	go func() {
		defer close(stuck)
		c.Write(make([]byte, 64<<20))
	}()
	known.written += 1 << 40
	for own := true; own; own, _ = p.fits(known, 1<<20) {
		known.written += 1 << 40
	}
	p.Admit(t.Context(), c, 1) // patience ends
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p.Admit(ctx, c, 1)
	other.Close()
	c.Close()
	<-stuck
}

func TestConnectionsToOneAddressShareTheRoomInQueues(t *testing.T) {
	p := newPaces()
	c := connected(t, p)
	known, later := p.conns[paceKey(c)], time.Now().Add(time.Hour)
	other := &pace{addr: known.addr, written: 1, left: sharedMax, looked: later, moved: later} // sends all the time
	p.conns["other"] = other
	if _, shared := p.fits(known, 1); shared {
		t.Error("a block fits, and the queue of another connection to that address is full")
	}
	other.addr = netip.MustParseAddr("192.0.2.1")
	if _, shared := p.fits(known, 1); !shared {
		t.Error("no block fits, and only the queue of a connection to another address is full")
	}
}
