package doctor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"narbor/p2p/netmon"
)

// knockTime bounds the time for packets to pass a copy of the rules. The kernel delivers them at once, but a busy
// machine takes a moment to set the interface up. attemptTime bounds one attempt over TCP.
const knockTime, attemptTime = 1500 * time.Millisecond, 250 * time.Millisecond

// doors are what listens inside a copy, as narbor does.
type doors struct {
	copy *firewallCopy
	port uint16
	tcp  []net.Listener
	udp  []*net.UDPConn
	came map[flow]chan struct{} // has one in it when a datagram has come
}

var multicastGroups = map[bool]*net.UDPAddr{
	false: {IP: net.IPv4(224, 0, 0, 251), Port: 5353},
	true:  {IP: net.ParseIP("ff02::fb"), Port: 5353},
}

func (f *firewallCopy) listen(port uint16) (d *doors, err error) {
	d = &doors{copy: f, port: port, came: map[flow]chan struct{}{}}
	err = enter(f.inside, func() error {
		ifi, err := net.InterfaceByName(f.iface)
		if err != nil {
			return err
		}
		for _, p := range f.pairs {
			v6 := p.here.Addr().Is6()
			l, err := net.Listen("tcp"+familyDigit(v6), fmt.Sprintf(":%d", port))
			if err != nil {
				return err
			}
			d.tcp = append(d.tcp, l)
			u, err := net.ListenMulticastUDP("udp"+familyDigit(v6), ifi, multicastGroups[v6])
			if err != nil {
				return err
			}
			d.udp = append(d.udp, u)
			came := make(chan struct{}, 1)
			d.came[flow{"UDP", v6}] = came
			go receive(u, came) // ends when u is closed
		}
		return nil
	})
	if err != nil {
		d.close()
	}
	return d, err
}

func familyDigit(v6 bool) string {
	if v6 {
		return "6"
	}
	return "4"
}

var knockText = []byte("narbor doctor")

func receive(u *net.UDPConn, came chan<- struct{}) {
	b := make([]byte, 64)
	for {
		n, err := u.Read(b)
		if err != nil {
			return
		}
		if bytes.Equal(b[:n], knockText) {
			netmon.Hint(came)
		}
	}
}

func (d *doors) close() {
	for _, l := range d.tcp {
		l.Close()
	}
	for _, u := range d.udp {
		u.Close()
	}
}

// knock sends what a neighbour sends first, from outside, and returns what has come in.
func (d *doors) knock(ctx context.Context, limit time.Duration) map[flow]bool {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var mu sync.Mutex
	open := map[flow]bool{}
	var tries sync.WaitGroup
	for _, p := range d.copy.pairs {
		v6 := p.here.Addr().Is6()
		for _, fl := range []flow{{"TCP", v6}, {"UDP", v6}} {
			try := d.knockTCP
			if fl.proto == "UDP" {
				try = d.knockUDP
			}
			tries.Go(func() {
				err := enter(d.copy.outside, func() error { return try(ctx, p) })
				mu.Lock()
				defer mu.Unlock()
				open[fl] = err == nil
			})
		}
	}
	tries.Wait()
	return open
}

func (d *doors) knockTCP(ctx context.Context, p addrPair) error {
	to := p.here.Addr()
	if to.Is6() && to.IsLinkLocalUnicast() {
		to = to.WithZone(fmt.Sprint(d.copy.index))
	}
	for {
		attempt := net.Dialer{Timeout: attemptTime}
		c, err := attempt.DialContext(ctx, "tcp", netip.AddrPortFrom(to, d.port).String())
		if err == nil {
			return c.Close()
		}
		var slow net.Error
		if ctx.Err() != nil || !errors.As(err, &slow) || !slow.Timeout() {
			return err
		}
	}
}

// knockUDP sends until something has come, or ctx ends: the cable may need a moment after it was plugged in.
func (d *doors) knockUDP(ctx context.Context, p addrPair) error {
	v6 := p.here.Addr().Is6()
	local := &net.UDPAddr{Port: 5353}
	if !v6 {
		local.IP = p.there.Addr().AsSlice()
	}
	c, err := net.ListenUDP("udp"+familyDigit(v6), local)
	if err != nil {
		return err
	}
	defer c.Close()
	ifi := &net.Interface{Index: d.copy.index}
	if v6 {
		err = ipv6.NewPacketConn(c).SetMulticastInterface(ifi)
	} else {
		err = ipv4.NewPacketConn(c).SetMulticastInterface(ifi)
	}
	if err != nil {
		return err
	}
	came := d.came[flow{"UDP", v6}]
	for len(came) > 0 {
		<-came // of an earlier knock
	}
	for {
		_, _ = c.WriteToUDP(knockText, multicastGroups[v6]) // a rule that forbids sending is as good as one that drops
		select {
		case <-came:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}
