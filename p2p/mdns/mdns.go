// Package mdns announces this machine by multicast DNS, and finds others that announce themselves.
//
// It knows no neighbours: each announcement of a neighbour's addresses is passed to [Config.Found], where another
// package decides whether to connect. An announcement is a service of type _narbor._tcp in the domain local, under a
// random name. Its TXT record has one string for each address, and nothing else:
//
//	dnsaddr=/ip4/ADDRESS/tcp/PORT/p2p/PEERID, or /ip6
//
// Machines ask for the PTR record of _narbor._tcp.local, by a multicast question that all machines answer by multicast.
//
// A [Service] has a session for each link, with one goroutine that announces and two, for IPv4 and IPv6, that browse.
// The owner starts and ends them by [Service.Update] whenever the links change, and ends all by [Service.Close].
package mdns

import (
	"cmp"
	"context"
	"crypto/rand"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/zeroconf/v2"
	ma "github.com/multiformats/go-multiaddr"
	"go.uber.org/zap"

	"narbor/p2p/netmon"
	"narbor/store/lru"
)

const (
	// maxTexts bounds the strings of an announcement that are looked at.
	maxTexts = 4 * netmon.MaxAddrs
	// maxParsed bounds the cache of parsed addresses in announcements, at up to 500 bytes each.
	maxParsed = 1024

	// textPrefix begins each address in a TXT record, as in libp2p's own discovery: any libp2p program can read it.
	textPrefix = "dnsaddr="

	// ttl is how long an announcement may be believed, in seconds. It outlives askLate, after which all
	// machines are asked again.
	ttl = 600
	// retry is the pause after a family could not be used on a link. Often it has no address yet, and then
	// a change of the link starts everything anew; so this may be slow.
	retry = 10 * time.Second
	// goodbyeLimit bounds the time in which the end of an announcement is sent.
	goodbyeLimit = time.Second
)

// Config says which machine is announced and where found machines are reported.
type Config struct {
	Self        peer.ID               // of the peer that is announced; required
	Port        uint16                // TCP, at which it listens
	IsNeighbour func(netip.Addr) bool // whether an address is that of another machine on one of the links; required
	// NonNeighbours reports whether machines are known that are not connected: they are known by their announcements
	// alone, so questions are asked more often. Required.
	NonNeighbours func() bool
	Found         func(Announcement) // is called for each announcement, from several goroutines at once; required
	Traffic       *Traffic           // counts packets; required
	Log           *zap.Logger        // required
}

// An Announcement says where a machine can be reached, according to the machine itself.
type Announcement struct {
	ID     peer.ID
	Addrs  []ma.Multiaddr // with the zone of the link, if they are link-local; 1 to [netmon.MaxAddrs]
	Expiry time.Time      // at most [ttl] ahead
}

// A Service announces this machine and listens for others on each link, by multicast DNS. A link that changes gets a
// new session under a new name, because others would take the old name for old news. One goroutine owns it and calls
// its methods, but for Take, which may be called concurrently.
//
// zeroconf announces and answers; a [browser] listens and asks. The packets that a session sends unasked stay on its
// link. But Linux hands zeroconf's sockets every multicast packet of groups that any program on the machine has joined,
// and zeroconf answers to the interface of the question: if Avahi listens on a link that is not used here, a question
// there is answered with the addresses of those that are. The gater refuses connections from there.
type Service struct {
	cfg      Config
	sessions map[string]*session
	parsed   *lru.Cache[string, parsedText]
	running  sync.WaitGroup
}

type session struct {
	link   netmon.Link
	cancel context.CancelFunc
}

// New makes a service without sessions; Update starts them.
func New(cfg Config) *Service {
	return &Service{cfg: cfg, sessions: make(map[string]*session), parsed: lru.New[string, parsedText](maxParsed)}
}

// Update starts and ends sessions so that there is one for each link that is used. Sessions end with ctx.
func (s *Service) Update(ctx context.Context, links []netmon.Link) {
	now := make(map[string]netmon.Link)
	for _, k := range netmon.Used(links) {
		now[k.Name] = k
	}
	for name, old := range s.sessions {
		if k, ok := now[name]; !ok || !k.Same(old.link) {
			old.cancel()
			delete(s.sessions, name)
		}
	}
	for name, k := range now {
		if s.sessions[name] != nil || k.Interface.Flags&net.FlagMulticast == 0 { // the user may have wanted a tunnel
			continue
		}
		ctx, cancel := context.WithCancel(ctx)
		s.sessions[name] = &session{k, cancel}
		s.running.Go(func() { s.announce(ctx, k) })
		for _, family := range []zeroconf.IPType{zeroconf.IPv4, zeroconf.IPv6} {
			s.running.Go(func() { s.browse(ctx, k, family) })
		}
	}
}

// Stop has all sessions end, and does not wait for that. The next Update starts new ones.
func (s *Service) Stop() {
	for _, old := range s.sessions {
		old.cancel()
	}
	clear(s.sessions)
}

// Close ends all sessions, and returns when nothing of them runs any more.
func (s *Service) Close() {
	s.Stop()
	s.running.Wait()
}

func (s *Service) announce(ctx context.Context, k netmon.Link) {
	ips, texts := s.texts(k)
	if len(texts) == 0 {
		return
	}
	for ctx.Err() == nil {
		server, err := zeroconf.RegisterProxy(rand.Text(), serviceType, domain, int(s.cfg.Port), rand.Text(), ips, texts,
			[]net.Interface{k.Interface}, zeroconf.TTL(ttl))
		if err != nil {
			s.cfg.Log.Debug("mdns announcement", zap.String("interface", k.Name), zap.Error(err))
			sleep(ctx, retry)
			continue
		}
		<-ctx.Done()
		s.goodbye(server)
	}
}

// browse listens for others on a link, and asks for them, until ctx ends.
func (s *Service) browse(ctx context.Context, k netmon.Link, family zeroconf.IPType) {
	for ctx.Err() == nil {
		if err := s.browseOnce(ctx, k, family); err != nil && ctx.Err() == nil {
			s.cfg.Log.Debug("mdns browsing", zap.String("interface", k.Name), zap.Error(err))
			sleep(ctx, retry)
		}
	}
}

// browseOnce returns when ctx has ended, or the link is of no more use.
func (s *Service) browseOnce(ctx context.Context, k netmon.Link, family zeroconf.IPType) error {
	e, err := openBrowser(family, k.Interface, s.cfg.Traffic)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(ctx, func() { e.conn.Close() })()
	s.running.Go(func() { cancel(e.askOn(ctx, s.cfg.NonNeighbours)) })
	defer e.conn.Close()
	b := make([]byte, maxPacket+1)
	for {
		n, ifIndex, from, err := e.read(b)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			return err
		}
		// Linux gives a socket what any program on the machine has joined the group for, on any link.
		if n > maxPacket || ifIndex != 0 && ifIndex != k.Interface.Index {
			continue
		}
		for _, found := range e.take(b[:n], time.Now()) {
			s.Take(found, from)
		}
	}
}

// goodbye announces that this name has gone. It waits for goodbyeLimit at most: zeroconf takes no context, and sends
// with no deadline. Then the goroutine outlasts Close until the kernel takes the packets.
func (s *Service) goodbye(server *zeroconf.Server) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		server.Shutdown()
	}()
	select {
	case <-done:
	case <-time.After(goodbyeLimit):
		s.cfg.Log.Debug("mdns goodbye takes too long")
	}
}

// texts returns the addresses of a link by which neighbours can reach us, plain and as TXT strings.
func (s *Service) texts(k netmon.Link) (ips, texts []string) {
	addrs := slices.Clone(k.Addrs)
	slices.SortStableFunc(addrs, func(a, b netip.Prefix) int {
		return cmp.Compare(lastResort(a.Addr()), lastResort(b.Addr()))
	})
	for _, p := range addrs {
		a := p.Addr()
		if len(ips) == netmon.MaxAddrs {
			break
		}
		m, err := netmon.TCPAddr(a, s.cfg.Port)
		if err != nil {
			continue
		}
		ips = append(ips, a.String())
		texts = append(texts, textPrefix+m.String()+"/p2p/"+s.cfg.Self.String())
	}
	return ips, texts
}

// lastResort returns 1 for the addresses that come last in an announcement, and 0 for others.
func lastResort(a netip.Addr) int {
	if netmon.IsLinkLocal(a) {
		return 1
	}
	return 0
}

// Take parses an announcement from an address, which has a zone if it is link-local, and reports it to [Config.Found]
// if it names a neighbour.
func (s *Service) Take(e *zeroconf.ServiceEntry, from netip.Addr) {
	a, ok := s.parse(e, from)
	if !ok {
		s.cfg.Traffic.count(announcementIgnored)
		return
	}
	s.cfg.Traffic.count(announcementUsed)
	s.cfg.Found(a)
}

// parse keeps of an entry what may be dialled: the addresses on our links of one peer other than ourselves. Of
// its link-local addresses it keeps the one that sent the entry, if that is known, with the interface on which the
// entry arrived as its zone.
func (s *Service) parse(e *zeroconf.ServiceEntry, from netip.Addr) (Announcement, bool) {
	a := Announcement{Expiry: time.Now().Add(min(time.Until(e.Expiry), ttl*time.Second))}
	for _, text := range e.Text[:min(len(e.Text), maxTexts)] {
		id, m, ok := s.cachedText(text)
		if !ok || id == s.cfg.Self || a.ID != "" && id != a.ID || len(a.Addrs) == netmon.MaxAddrs {
			continue
		}
		ip, ok := netmon.IPOf(m)
		if netmon.IsLinkLocal(ip) && ip == from.WithZone("") {
			ip, m = from, netmon.Zoned(m, from.Zone())
		}
		if !ok || !s.cfg.IsNeighbour(ip) || ma.Contains(a.Addrs, m) {
			continue
		}
		a.ID = id
		a.Addrs = append(a.Addrs, m)
	}
	return a, len(a.Addrs) > 0
}

// A parsedText is the result of parseText; the ID is empty if it failed.
type parsedText struct {
	id   peer.ID
	addr ma.Multiaddr
}

// cachedText is parseText with a cache: all machines announce the same again and again, and on a LAN at rest parsing
// that would be half of the work.
func (s *Service) cachedText(text string) (peer.ID, ma.Multiaddr, bool) {
	p, ok := s.parsed.Get(text)
	if !ok && len(text) <= netmon.MaxAddrText {
		p.id, p.addr, _ = parseText(text)
		s.parsed.Add(text, p)
	}
	return p.id, p.addr, p.id != ""
}

// parseText accepts "dnsaddr=/(ip4|ip6)/ADDRESS/tcp/PORT/p2p/ID" and nothing else.
func parseText(text string) (peer.ID, ma.Multiaddr, bool) {
	text, ok := strings.CutPrefix(text, textPrefix)
	if !ok || len(text) > netmon.MaxAddrText {
		return "", nil, false
	}
	m, err := ma.NewMultiaddr(text)
	if err != nil {
		return "", nil, false
	}
	return netmon.SplitPeerAddr(m)
}
