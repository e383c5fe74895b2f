package mdns

import (
	"bytes"
	"context"
	"fmt"
	mrand "math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"github.com/libp2p/zeroconf/v2"
	"github.com/miekg/dns"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/time/rate"
)

const (
	// askSoon is the first pause between two questions; each is three times as long as the one before. The limit is
	// askLate if there are machines known by their announcements alone: less than half of the lifetime of those, so
	// that each is received twice in that time. Otherwise it is askRest, for machines of which no announcement has
	// arrived.
	askSoon, askLate, askRest = time.Second, 4 * time.Minute, 20 * time.Minute

	serviceType = "_narbor._tcp"
	domain      = "local"
	udpPort     = 5353
	// packetRate, a second, and packetBurst bound the packets about narbor that are parsed, on a link and in one
	// family: all answers of a LAN of thousands to one question, and then those of a moderate flood.
	packetRate, packetBurst = 256, 4096
	// maxPacket is what a packet of multicast DNS may hold (RFC 6762, 17).
	maxPacket = 9000
)

var (
	serviceName = serviceType + "." + domain + "."
	// serviceLabels is in every packet about our service: the first time, no name is abbreviated.
	serviceLabels = []byte("\x07_narbor\x04_tcp\x05local")
)

// A browser listens on a link for multicast DNS, in one family, and asks. All machines receive an answer, so one
// question is enough for a whole LAN: a machine that has received the question of another skips its own turn.
// zeroconf's browsing asks at least every minute, whatever it receives; among 60 machines that would be 400 packets a
// second, for each of them to read.
type browser struct {
	question []byte
	id       uint16      // of own questions: multicast comes back to its sender
	asked    atomic.Bool // another machine has asked since this browser's last turn
	pace     *rate.Limiter
	traffic  *Traffic

	conn  *net.UDPConn
	read  func(b []byte) (n, ifIndex int, from netip.Addr, err error)
	write func(b []byte) error
}

func newBrowser(question []byte, id uint16, seen *Traffic) *browser {
	return &browser{question: question, id: id, pace: rate.NewLimiter(packetRate, packetBurst), traffic: seen}
}

// openBrowser joins the multicast group of a family on an interface. The caller closes the browser's connection.
func openBrowser(family zeroconf.IPType, ifi net.Interface, seen *Traffic) (*browser, error) {
	q := new(dns.Msg)
	q.SetQuestion(serviceName, dns.TypePTR)
	q.RecursionDesired = false
	packed, err := q.Pack()
	if err != nil {
		return nil, err
	}
	e := newBrowser(packed, q.Id, seen)
	if family == zeroconf.IPv4 {
		err = e.join4(ifi)
	} else {
		err = e.join6(ifi)
	}
	if err != nil {
		return nil, fmt.Errorf("listen to multicast on %s: %w", ifi.Name, err)
	}
	return e, nil
}

// join4 and join6 differ in types alone. Of a multicast address Go makes a socket that shares its port with others.
func (e *browser) join4(ifi net.Interface) (err error) {
	group := &net.UDPAddr{IP: net.IPv4(224, 0, 0, 251), Port: udpPort}
	if e.conn, err = net.ListenUDP("udp4", group); err != nil {
		return err
	}
	p := ipv4.NewPacketConn(e.conn)
	if err := p.JoinGroup(&ifi, group); err != nil {
		e.conn.Close()
		return err
	}
	_ = p.SetControlMessage(ipv4.FlagInterface, true) // where that cannot be had, every link is taken for this one
	_ = p.SetMulticastTTL(255)
	e.read = func(b []byte) (int, int, netip.Addr, error) {
		n, c, _, err := p.ReadFrom(b)
		if c == nil {
			return n, 0, netip.Addr{}, err
		}
		return n, c.IfIndex, netip.Addr{}, err // the sender is not needed
	}
	e.write = func(b []byte) error {
		_, err := p.WriteTo(b, &ipv4.ControlMessage{IfIndex: ifi.Index}, group)
		return err
	}
	return nil
}

func (e *browser) join6(ifi net.Interface) (err error) {
	group := &net.UDPAddr{IP: net.ParseIP("ff02::fb"), Port: udpPort}
	if e.conn, err = net.ListenUDP("udp6", group); err != nil {
		return err
	}
	p := ipv6.NewPacketConn(e.conn)
	if err := p.JoinGroup(&ifi, group); err != nil {
		e.conn.Close()
		return err
	}
	_ = p.SetControlMessage(ipv6.FlagInterface, true)
	_ = p.SetMulticastHopLimit(255)
	e.read = func(b []byte) (int, int, netip.Addr, error) {
		n, c, src, err := p.ReadFrom(b)
		u, ok := src.(*net.UDPAddr)
		if c == nil || !ok {
			return n, 0, netip.Addr{}, err
		}
		from, _ := netip.AddrFromSlice(u.IP)
		return n, c.IfIndex, from.WithZone(ifi.Name), err
	}
	e.write = func(b []byte) error {
		_, err := p.WriteTo(b, &ipv6.ControlMessage{IfIndex: ifi.Index}, group)
		return err
	}
	return nil
}

// askOn asks at once, and then more and more rarely, until ctx ends. In its later turns it leaves that to others.
func (e *browser) askOn(ctx context.Context, nonNeighbours func() bool) error {
	for pause, first := askSoon, true; ctx.Err() == nil; pause, first = nextAsk(pause, nonNeighbours()), false {
		if others := e.asked.Swap(false); first || !others {
			if err := e.write(e.question); err != nil {
				return err
			}
			e.traffic.count(questionSent)
		}
		sleep(ctx, pause)
	}
	return nil
}

// nextAsk returns the pause after a pause.
func nextAsk(pause time.Duration, nonNeighbours bool) time.Duration {
	if nonNeighbours {
		return min(3*pause, askLate)
	}
	return min(3*pause, askRest)
}

// noteQuestion records whether a packet is another machine's question that all machines will answer.
func (e *browser) noteQuestion(m *dns.Msg) {
	if m.Response || m.Id == e.id {
		return
	}
	if len(m.Ns) == 0 && len(m.Answer) == 0 { // a probe has an Ns; one that lists known answers does not get those
		for _, q := range m.Question {
			if q.Name == serviceName && q.Qtype == dns.TypePTR && q.Qclass == dns.ClassINET { // not by unicast
				e.asked.Store(true)
				e.traffic.count(questionUsed)
				return
			}
		}
	}
	e.traffic.count(questionIgnored)
}

// take returns the announcements in a packet, and records whether it is another machine's question. Of a flood it takes
// no more than packetRate.
func (e *browser) take(packet []byte, now time.Time) (found []*zeroconf.ServiceEntry) {
	if !bytes.Contains(packet, serviceLabels) {
		return nil
	}
	if !e.pace.AllowN(now, 1) {
		e.traffic.count(unknownDropped)
		return nil
	}
	var m dns.Msg
	if m.Unpack(packet) != nil {
		e.traffic.count(unknownMalformed)
		return nil
	}
	e.noteQuestion(&m)
	for _, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range section {
			if txt, ok := rr.(*dns.TXT); ok && txt.Hdr.Ttl > 0 && strings.HasSuffix(txt.Hdr.Name, "."+serviceName) {
				found = append(found, &zeroconf.ServiceEntry{Text: txt.Txt, Expiry: now.Add(time.Duration(txt.Hdr.Ttl) * time.Second)})
			}
		}
	}
	return found
}

// sleep waits for 3/4 to 5/4 of a time, or until ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d*3/4 + mrand.N(d/2)):
	}
}
