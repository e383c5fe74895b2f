package discovery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"narbor/p2p/netmon"
	"narbor/p2p/transport"
)

const (
	// defaultPort is where narbor listens unless it is told otherwise.
	defaultPort = 6273
	// namedMin is the first pause before a named peer is dialled again; the last is redialMax.
	namedMin = time.Second
	// lookAgain is how often a name is resolved anew while its peers are connected, and how often the host of a virtual
	// machine is looked for that was not there hostTries times, which takes some two minutes.
	lookAgain, hostTries = 5 * time.Minute, 8
)

// errSelf says that a named peer is this machine.
var errSelf = errors.New("that is this machine itself")

// A namedPeer is a peer that the user named, or the network's name server: one machine, or with a DNS name as many as
// it has addresses. The host of a virtual machine is kept as if it had been named.
type namedPeer struct {
	text   string     // as it was given
	from   string     // where: fromFlag, fromKernel or fromAdded; or fromDNS, fromVsock
	addr   netip.Addr // or
	cid    uint32     // of a machine that is reached by vsock, or
	name   string     // a DNS name
	family string     // "ip", "ip4" or "ip6": which of the name's addresses count
	port   uint16
	id     peer.ID // "": any peer that answers
	first  bool    // the first round of discovery waits until it has been tried

	hurry chan struct{} // the network has changed: dial at once
	lost  chan struct{} // a connection to one of its peers has ended
}

// Where a named peer was given.
const (
	fromFlag   = "flag"
	fromKernel = "kernel"
	fromAdded  = "added"
	fromDNS    = "dns-sd" // in an SRV record of a search domain
	fromVsock  = "vsock"  // not given by the user: it is this machine's host
)

// hostPeer is the machine that this one is a guest of. Its text is not one that the user may give.
func hostPeer() *namedPeer {
	return &namedPeer{text: "host by vsock", from: fromVsock, cid: transport.VsockHost, port: defaultPort,
		hurry: make(chan struct{}, 1), lost: make(chan struct{}, 1)}
}

// parseNamed parses what users give to --peer.
func parseNamed(texts []string, from string) ([]*namedPeer, error) {
	var out []*namedPeer
	for i, text := range texts {
		if slices.Contains(texts[:i], text) {
			continue
		}
		n, err := parseNamedPeer(text)
		if err != nil {
			return nil, fmt.Errorf("peer %.100q: %w", text, err)
		}
		n.from = from
		out = append(out, n)
	}
	return out, nil
}

// via returns the source of the peers found at its addresses.
func (n *namedPeer) via() string {
	switch n.from {
	case fromKernel:
		return viaKernel
	case fromDNS:
		return viaDNS
	case fromVsock:
		return viaVsock
	}
	return viaNamed
}

func parseNamedPeer(text string) (*namedPeer, error) {
	n := &namedPeer{text: text, port: defaultPort, family: "ip", hurry: make(chan struct{}, 1), lost: make(chan struct{}, 1)}
	if strings.HasPrefix(text, "/") {
		return n, n.parseMultiaddr(text)
	}
	if rest, ok := strings.CutPrefix(text, transport.VsockPrefix); ok {
		cid, port, err := transport.ParseVsock(rest)
		n.cid, n.port = cid, cmp.Or(port, n.port)
		return n, err
	}
	host := text
	if h, p, err := net.SplitHostPort(text); err == nil {
		port, err := strconv.ParseUint(p, 10, 16)
		if err != nil || port == 0 {
			return nil, fmt.Errorf("%q is not a port", p)
		}
		host, n.port = h, uint16(port)
	} else if strings.HasPrefix(text, "[") && strings.HasSuffix(text, "]") {
		host = text[1 : len(text)-1]
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return n, n.setAddr(a)
	}
	return n, n.setName(host)
}

// parseMultiaddr accepts /(ip4|ip6|dns|dns4|dns6)/HOST[/tcp/PORT][/p2p/ID].
func (n *namedPeer) parseMultiaddr(text string) error {
	m, err := ma.NewMultiaddr(text)
	if err != nil {
		return err
	}
	whole := m
	if len(m) > 1 && m[0].Code() == ma.P_IP6ZONE {
		if m = m[1:]; m[0].Code() != ma.P_IP6 {
			return errors.New("/ip6zone belongs before /ip6")
		}
	}
	for i, c := range m {
		switch code := c.Protocol().Code; {
		case i == 0 && (code == ma.P_IP4 || code == ma.P_IP6):
			a, _ := netmon.IPOf(whole)
			err = n.setAddr(a)
		case i == 0 && code == ma.P_DNS:
			err = n.setName(c.Value())
		case i == 0 && code == ma.P_DNS4:
			n.family, err = "ip4", n.setName(c.Value())
		case i == 0 && code == ma.P_DNS6:
			n.family, err = "ip6", n.setName(c.Value())
		case i == 1 && code == ma.P_TCP && c.Value() != "0":
			port, perr := strconv.ParseUint(c.Value(), 10, 16)
			n.port, err = uint16(port), perr
		case i > 0 && i == len(m)-1 && code == ma.P_P2P:
			n.id, err = peer.Decode(c.Value())
		default:
			err = fmt.Errorf("/%s is not expected there; want /ip4/ADDRESS/tcp/PORT/p2p/ID", c.Protocol().Name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (n *namedPeer) setAddr(a netip.Addr) error {
	a = a.Unmap()
	switch {
	case a.IsUnspecified() || a.IsMulticast():
		return errors.New("not the address of a machine")
	case netmon.IsLinkLocal(a) && a.Zone() == "":
		return fmt.Errorf("a link-local address needs the name of an interface, as in %s%%eth0", a)
	case !netmon.IsLinkLocal(a) && a.Zone() != "":
		return fmt.Errorf("%%%s belongs to link-local addresses alone", a.Zone())
	}
	n.addr = a
	return nil
}

func (n *namedPeer) setName(name string) error {
	ok := len(name) > 0 && len(name) <= 253 && !strings.HasPrefix(name, "-") && !strings.ContainsFunc(name, func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._", r)
	})
	if !ok {
		return errors.New("neither a multiaddr nor an IP address nor a DNS name")
	}
	n.name = name
	return nil
}

// resolve returns the IP addresses that the name stands for now.
func (n *namedPeer) resolve(ctx context.Context) ([]netip.Addr, error) {
	if n.addr.IsValid() {
		return []netip.Addr{n.addr}, nil
	}
	if n.cid != 0 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, n.family, n.name)
	if err != nil {
		return nil, err
	}
	for i := range addrs {
		addrs[i] = addrs[i].Unmap()
	}
	if n.from == fromDNS { // any network may have a name server; this one names no machine outside
		addrs = slices.DeleteFunc(addrs, func(a netip.Addr) bool { return !a.IsPrivate() || transport.IsMetadata(a) })
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	addrs = slices.Compact(addrs)
	return addrs[:min(len(addrs), maxNamedAddrs)], nil
}

// rest returns how long it is not dialled after an error, the one before which there were so many in a row.
func (n *namedPeer) rest(failures int, err error) time.Duration {
	if n.from == fromVsock && (failures >= hostTries || errors.Is(err, syscall.ENODEV)) {
		return lookAgain // the host has no narbor, or there is none
	}
	if n.from == fromDNS && errors.Is(err, errSelf) {
		return lookAgain
	}
	return backoff(failures, namedMin)
}

func (n *namedPeer) multiaddrs(addrs []netip.Addr) []ma.Multiaddr {
	out := make([]ma.Multiaddr, 0, len(addrs))
	for _, a := range addrs {
		if m, err := netmon.TCPAddr(a, n.port); err == nil {
			out = append(out, m)
		}
	}
	return out
}

// parseFound parses HOST:PORT of an SRV record, which holds no address (RFC 2782). As with announcements, the port is
// not one of those below [netmon.MinPort].
func parseFound(text string) (*namedPeer, error) {
	n, err := parseNamedPeer(text)
	if err != nil || n.name == "" || n.port < netmon.MinPort {
		return nil, errors.Join(fmt.Errorf("%.100q is no DNS name with a port from %d on", text, netmon.MinPort), err)
	}
	n.from = fromDNS
	return n, nil
}
