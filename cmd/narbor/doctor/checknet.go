package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/libp2p/zeroconf/v2"

	"narbor/cmd/narbor/dashboard"
)

const (
	// hearFor bounds the wait for announcements: each machine answers at once, and again after a second.
	hearFor = 3 * time.Second
	// hearAfterOwn bounds the wait after this machine's own announcement has arrived: other machines answer as quickly.
	hearAfterOwn = 700 * time.Millisecond
	// reachTimeout bounds a connection to an address on the same network.
	reachTimeout = 2 * time.Second
	// maxHeard bounds the machines that are tried: a hostile machine may announce invented ones.
	maxHeard = 64
)

// listen browses for other machines on the interfaces that narbor uses.
func (p *patient) listen(ctx context.Context) hearing {
	if p.heard.done {
		return p.heard
	}
	p.heard = hearing{done: true, peers: map[string][]string{}}
	var ifaces []net.Interface
	for _, i := range p.status.Interfaces {
		if ifi, err := net.InterfaceByName(i.Name); err == nil && i.Used {
			ifaces = append(ifaces, *ifi)
		}
	}
	if len(ifaces) == 0 {
		p.heard.err = fmt.Errorf("no network interface is used")
		return p.heard
	}
	ctx, cancel := context.WithTimeout(ctx, hearFor)
	defer cancel()
	entries := make(chan *zeroconf.ServiceEntry, 16)
	failed := make(chan error, 1)
	go func() { // ends with ctx
		failed <- zeroconf.Browse(ctx, "_narbor._tcp", "local", entries, zeroconf.SelectIfaces(ifaces),
			zeroconf.SelectIPTraffic(families()))
	}()
	var quiet <-chan time.Time
	for {
		select {
		case e, ok := <-entries:
			if !ok {
				entries = nil // Browse is about to return
				continue
			}
			p.heard.add(e)
			if p.heard.peers[p.status.ID] != nil && quiet == nil {
				quiet = time.After(hearAfterOwn)
			}
		case <-quiet:
			cancel()
			quiet = nil
		case err := <-failed:
			if ctx.Err() == nil {
				p.heard.err = err
			}
			return p.heard
		}
	}
}

// families returns the IP versions that this kernel supports: zeroconf fails if it is told to use another.
func families() zeroconf.IPType {
	c, err := net.ListenPacket("udp6", "[::]:0")
	if errors.Is(err, syscall.EAFNOSUPPORT) {
		return zeroconf.IPv4
	}
	if err == nil {
		c.Close()
	}
	return zeroconf.IPv4AndIPv6
}

func checkNetwork(_ context.Context, p *patient) []Finding {
	if used := p.status.Used(); len(used) > 0 {
		return []Finding{fine("narbor uses %s", strings.Join(used, ", "))}
	}
	f := Finding{Severity: severityError, Text: "no network interface is used",
		Fix: "connect this machine, or name an interface with --interface"}
	if _, ignored := p.status.NetworkLines(); ignored != "" {
		f.Text += "; " + ignored
	}
	if len(p.status.Neighbours) > 0 { // which were named
		f.Severity = severityInfo
	}
	return []Finding{f}
}

func checkMulticast(ctx context.Context, p *patient) []Finding {
	if !p.status.MDNS {
		return []Finding{skipped("multicast is turned off by --no-mdns")}
	}
	used := p.status.Used()
	if len(used) == 0 {
		return []Finding{skipped("multicast: no network interface is used")}
	}
	h := p.listen(ctx)
	switch {
	case h.err != nil:
		return []Finding{{Severity: severityError, Text: "multicast DNS does not work: " + h.err.Error(),
			Fix: "see whether another program has UDP port 5353 for itself alone: narbor doctor ports"}}
	case h.peers[p.status.ID] == nil:
		return []Finding{{Severity: severityError, Text: "narbor's own announcement is not heard on " + strings.Join(used, ", ") +
			", so others do not hear it either",
			Fix: "open UDP port 5353 in the firewall (sudo narbor doctor firewall), and see that there is a route for 224.0.0.0/4"}}
	}
	return []Finding{fine("narbor's own announcement is heard on %s", strings.Join(used, ", "))}
}

func checkNeighbours(_ context.Context, p *patient) []Finding {
	if n := len(p.status.Neighbours); n > 0 {
		return []Finding{fine("%s connected", dashboard.Plural(n, "neighbour"))}
	}
	f := Finding{Severity: severityWarning, Text: "no neighbour is connected",
		Fix: "start narbor on another machine of this network, or name one that multicast does not reach: narbor peers add ADDRESS"}
	if !p.status.MDNS {
		f.Text += ", and with --no-mdns narbor finds only peers that are named"
		f.Fix = "name a machine that runs narbor: narbor peers add ADDRESS"
	}
	if n := len(p.status.OtherGroup); n > 0 {
		f.Text += fmt.Sprintf("; %s of another group", dashboard.Plural(n, "machine")) + " must not be asked"
		f.Fix = "give all machines the same --group-secret-file, or none"
	}
	return []Finding{f}
}

// checkIsolation connects to the machines that announce themselves and are no neighbours.
func checkIsolation(ctx context.Context, p *patient) []Finding {
	if !p.running || !p.status.MDNS {
		return []Finding{skipped("isolation: announcements cannot be received")}
	}
	known := []string{p.status.ID}
	for _, n := range p.status.Neighbours {
		known = append(known, n.ID)
	}
	for _, o := range p.status.OtherGroup {
		known = append(known, o.ID)
	}
	for _, b := range p.status.Banned {
		known = append(known, b.ID)
	}
	known = append(known, p.status.Blocked...)
	others := map[string][]string{}
	for id, addrs := range p.listen(ctx).peers {
		if !slices.Contains(known, id) {
			others[id] = addrs
		}
	}
	away := unreachable(ctx, others)
	switch {
	case len(away) > 0:
		return []Finding{{Severity: severityWarning, Text: fmt.Sprintf("%s heard but cannot be reached: %s", areHeard(len(away)),
			strings.Join(away, ", ")),
			Fix: "open TCP port 6273 over there (narbor doctor firewall), or turn off client isolation, also called AP or guest " +
				"isolation, in the access point"}}
	case len(others) > 0:
		return []Finding{{Severity: severityInfo, Text: dashboard.Plural(len(others), "machine") +
			" can be reached, and should be a neighbour in a moment"}}
	case len(known) == 1:
		return []Finding{skipped("isolation: no other machine announces itself")}
	}
	return []Finding{fine("all machines that announce themselves can be reached")}
}

func areHeard(n int) string {
	if n == 1 {
		return "1 machine is"
	}
	return fmt.Sprintf("%d machines are", n)
}

// unreachable returns the addresses of those that cannot be connected to at any of theirs.
func unreachable(ctx context.Context, others map[string][]string) []string {
	var mu sync.Mutex
	var away []string
	var tried sync.WaitGroup
	for _, addrs := range others {
		tried.Go(func() {
			for _, addr := range addrs {
				d := net.Dialer{Timeout: reachTimeout}
				if c, err := d.DialContext(ctx, "tcp", addr); err == nil {
					c.Close()
					return
				}
			}
			mu.Lock()
			defer mu.Unlock()
			host, _, _ := net.SplitHostPort(addrs[0])
			away = append(away, host)
		})
	}
	tried.Wait()
	slices.Sort(away)
	return away
}

func (h hearing) add(e *zeroconf.ServiceEntry) {
	for _, text := range e.Text {
		addr, found := strings.CutPrefix(text, "dnsaddr=")
		parts := strings.Split(addr, "/") // "", ip4, address, tcp, port, p2p, ID
		if !found || len(parts) != 7 || parts[3] != "tcp" || parts[5] != "p2p" || net.ParseIP(parts[2]) == nil {
			continue
		}
		if id := parts[6]; len(h.peers[id]) < 4 && (h.peers[id] != nil || len(h.peers) < maxHeard) {
			h.peers[id] = append(h.peers[id], net.JoinHostPort(parts[2], parts[4]))
		}
	}
}
