package p2p

import (
	"cmp"
	"context"
	"crypto/rand"
	mrand "math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/zeroconf/v2"
	ma "github.com/multiformats/go-multiaddr"
	"go.uber.org/zap"

	"narbor/p2p/netmon"
)

const (
	mdnsService = "_narbor._tcp"
	mdnsDomain  = "local"
	// mdnsText begins each address in a TXT record, as in libp2p's own discovery: any libp2p program can read it.
	mdnsText = "dnsaddr="

	// mdnsTTL is how long an announcement may be believed, in seconds. It outlives askLate, after which everybody
	// is asked again.
	mdnsTTL = 600
	// mdnsRetry is the pause after a family could not be used on a link. Often it has no address yet, and then
	// a change of the link starts everything anew; so this may be slow.
	mdnsRetry = 10 * time.Second
	// goodbyeLimit bounds the time to say goodbye.
	goodbyeLimit = time.Second
)

// A discovery announces this machine and listens for others on each link, by multicast DNS. A link that changes
// gets a new session under a new name, because others would take the old name for old news. Owned by one goroutine.
//
// zeroconf announces and answers; an [ear] listens and asks. The packets that a session sends unasked stay on its link.
// But Linux hands zeroconf's sockets every multicast packet of groups that any program on the machine has joined, and
// zeroconf answers to the interface of the question: if Avahi listens on a link that is not used here, a question there
// is answered with the addresses of those that are. The gater refuses connections from there.
type discovery struct {
	lan      *lan
	port     uint16
	sessions map[string]*session
	heard    *lru.Cache[string, spoken]
	running  sync.WaitGroup
}

type session struct {
	link   netmon.Link
	cancel context.CancelFunc
}

func newDiscovery(l *lan) *discovery {
	heard := newMemory[string, spoken](maxHeard)
	return &discovery{lan: l, port: listenPort(l.host), sessions: make(map[string]*session), heard: heard}
}

// update starts and ends sessions so that there is one for each link that is used.
func (d *discovery) update(ctx context.Context, links []netmon.Link) {
	now := make(map[string]netmon.Link)
	for _, k := range netmon.Used(links) {
		now[k.Name] = k
	}
	for name, s := range d.sessions {
		if k, ok := now[name]; !ok || !k.Same(s.link) {
			s.cancel()
			delete(d.sessions, name)
		}
	}
	for name, k := range now {
		if d.sessions[name] != nil || k.Interface.Flags&net.FlagMulticast == 0 { // the user may have wanted a tunnel
			continue
		}
		ctx, cancel := context.WithCancel(ctx)
		d.sessions[name] = &session{k, cancel}
		d.running.Go(func() { d.announce(ctx, k) })
		for _, family := range []zeroconf.IPType{zeroconf.IPv4, zeroconf.IPv6} {
			d.running.Go(func() { d.browse(ctx, k, family) })
		}
	}
}

// stop has all sessions end.
func (d *discovery) stop() {
	for _, s := range d.sessions {
		s.cancel()
	}
	clear(d.sessions)
}

// close ends all sessions.
func (d *discovery) close() {
	d.stop()
	d.running.Wait()
}

// announce makes this machine known on a link until ctx ends.
func (d *discovery) announce(ctx context.Context, k netmon.Link) {
	ips, texts := d.texts(k)
	if len(texts) == 0 {
		return
	}
	for ctx.Err() == nil {
		s, err := zeroconf.RegisterProxy(rand.Text(), mdnsService, mdnsDomain, int(d.port), rand.Text(), ips, texts,
			[]net.Interface{k.Interface}, zeroconf.TTL(mdnsTTL))
		if err != nil {
			d.lan.log.Debug("mdns announcement", zap.String("interface", k.Name), zap.Error(err))
			sleep(ctx, mdnsRetry)
			continue
		}
		<-ctx.Done()
		d.goodbye(s)
	}
}

// goodbye tells the others that this name has gone. It does not wait for long.
func (d *discovery) goodbye(s *zeroconf.Server) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Shutdown()
	}()
	select {
	case <-done:
	case <-time.After(goodbyeLimit):
		d.lan.log.Debug("mdns goodbye takes too long")
	}
}

// texts returns the addresses of a link by which neighbours can reach us, plain and as TXT strings.
func (d *discovery) texts(k netmon.Link) (ips, texts []string) {
	addrs := slices.Clone(k.Addrs)
	slices.SortStableFunc(addrs, func(a, b netip.Prefix) int {
		return cmp.Compare(last(a.Addr()), last(b.Addr()))
	})
	for _, p := range addrs {
		a := p.Addr()
		if len(ips) == netmon.MaxAddrs {
			break
		}
		m, err := netmon.TCPAddr(a, d.port)
		if err != nil {
			continue
		}
		ips = append(ips, a.String())
		texts = append(texts, mdnsText+m.String()+"/p2p/"+d.lan.host.ID().String())
	}
	return ips, texts
}

// last is 1 for addresses that are the last resort.
func last(a netip.Addr) int {
	if netmon.IsLinkLocal(a) {
		return 1
	}
	return 0
}

// hear takes in what a machine announces, and from where, with a zone if it is link-local.
func (d *discovery) hear(e *zeroconf.ServiceEntry, from netip.Addr) {
	a, ok := d.parse(e, from)
	if !ok {
		d.lan.traffic.count(announcementIgnored)
		return
	}
	d.lan.traffic.count(announcementUsed)
	d.lan.keeper.announce(a, time.Now())
}

// parse keeps of an entry what may be dialled: the addresses on our links of one peer other than ourselves. Of
// Link-local addresses that is the one from which the entry came, as far as that is known; its zone is where it came in.
func (d *discovery) parse(e *zeroconf.ServiceEntry, from netip.Addr) (announcement, bool) {
	a := announcement{via: viaMDNS, expiry: time.Now().Add(min(time.Until(e.Expiry), mdnsTTL*time.Second))}
	for _, text := range e.Text[:min(len(e.Text), maxTexts)] {
		id, m, ok := d.parseText(text)
		if !ok || id == d.lan.host.ID() || a.id != "" && id != a.id || len(a.addrs) == netmon.MaxAddrs {
			continue
		}
		ip, ok := netmon.IPOf(m)
		if netmon.IsLinkLocal(ip) && ip == from.WithZone("") {
			ip, m = from, netmon.Zoned(m, from.Zone())
		}
		if !ok || !d.lan.gate.isNeighbour(ip) || ma.Contains(a.addrs, m) {
			continue
		}
		a.id = id
		a.addrs = append(a.addrs, m)
	}
	return a, len(a.addrs) > 0
}

// A spoken is what a text says; no ID if it says nothing.
type spoken struct {
	id   peer.ID
	addr ma.Multiaddr
}

// parseText is parseText with a memory: all announce the same again and again, and on a LAN at rest taking that apart
// would be half of the work.
func (d *discovery) parseText(text string) (peer.ID, ma.Multiaddr, bool) {
	s, ok := d.heard.Get(text)
	if !ok && len(text) <= netmon.MaxAddrText {
		s.id, s.addr, _ = parseText(text)
		d.heard.Add(text, s)
	}
	return s.id, s.addr, s.id != ""
}

// parseText accepts "dnsaddr=/(ip4|ip6)/ADDRESS/tcp/PORT/p2p/ID" and nothing else.
func parseText(text string) (peer.ID, ma.Multiaddr, bool) {
	text, ok := strings.CutPrefix(text, mdnsText)
	if !ok || len(text) > netmon.MaxAddrText {
		return "", nil, false
	}
	m, err := ma.NewMultiaddr(text)
	if err != nil {
		return "", nil, false
	}
	return netmon.SplitPeerAddr(m)
}

// sleep waits, give or take a quarter, or until ctx ends.
func sleep(ctx context.Context, d time.Duration) { pause(ctx, d*3/4+mrand.N(d/2)) }

// pause waits, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
