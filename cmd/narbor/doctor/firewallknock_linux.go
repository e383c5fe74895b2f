package doctor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

const (
	// knockTime is how long packets may take through a copy of the rules. The kernel hands them over at once, but a
	// busy machine takes a moment to find out that the cable is in. attemptTime is for one of TCP's attempts.
	knockTime, attemptTime = 1500 * time.Millisecond, 250 * time.Millisecond
	// suggestTime is the same while rules are tried that open the ports: the addresses are known by then.
	suggestTime = 500 * time.Millisecond
	// suggestLimit bounds the search for such rules.
	suggestLimit = 15 * time.Second
)

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

// listen opens the ports inside.
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
			select {
			case came <- struct{}{}:
			default:
			}
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

// A patch is a rule that lets something in before all others of a chain.
type patch struct {
	command []string
	undo    func(context.Context) error
}

// suggest returns commands that open the closed protocols. Each was tried in the copy, and is needed there.
func (f *firewallCopy) suggest(ctx context.Context, d *doors, closed []string, port string) (commands []string) {
	ctx, cancel := context.WithTimeout(ctx, suggestLimit)
	defer cancel()
	var applied []patch
	for _, command := range f.openings(ctx, closed, port) {
		if p, err := f.apply(ctx, command); err == nil {
			applied = append(applied, p)
		}
	}
	limit := suggestTime
	if !f.hasIPv4() {
		limit = knockTime // IPv6 looks for an address once a second
	}
	opened := func() bool {
		c := copied{open: d.knock(ctx, limit)}
		return !slices.ContainsFunc(closed, func(proto string) bool { return slices.Contains(c.closed(), proto) })
	}
	if !opened() {
		return nil
	}
	for _, p := range applied {
		if p.undo(ctx) == nil && opened() {
			continue // it is not needed
		}
		if _, err := f.apply(ctx, p.command); err != nil || ctx.Err() != nil {
			return nil
		}
		commands = append(commands, strings.Join(p.command, " "))
	}
	return commands
}

// openings are the rules that may be needed: one for each protocol in each chain that packets to this machine go
// through.
func (f *firewallCopy) openings(ctx context.Context, protos []string, port string) (commands [][]string) {
	type rule struct{ nft, iptables []string }
	rules := []rule{}
	for _, proto := range protos {
		lower, number := strings.ToLower(proto), map[string]string{"TCP": port, "UDP": "5353"}[proto]
		rules = append(rules, rule{[]string{lower, "dport", number, "accept"}, []string{"-p", lower, "--dport", number, "-j", "ACCEPT"}})
	}
	if !f.hasIPv4() { // neighbour discovery has to come in, too
		rules = append(rules, rule{[]string{"meta", "l4proto", "ipv6-icmp", "accept"}, []string{"-p", "ipv6-icmp", "-j", "ACCEPT"}})
	}
	nft, iptables := f.nftChains(ctx), f.iptablesChains(ctx)
	for _, r := range rules {
		for _, chain := range nft {
			commands = append(commands, slices.Concat([]string{"nft", "insert", "rule"}, chain, r.nft))
		}
		for _, insert := range iptables {
			commands = append(commands, slices.Concat(insert, r.iptables))
		}
	}
	return commands
}

// nftChains returns family, table and name of the base chains, but not those of iptables.
func (f *firewallCopy) nftChains(ctx context.Context) (chains [][]string) {
	text, err := f.run(ctx, "", "nft", "-j", "list", "chains")
	if err != nil {
		return nil
	}
	var all struct {
		Nftables []struct {
			Chain *struct{ Family, Table, Name, Type, Hook string }
		}
	}
	if err := json.Unmarshal([]byte(text), &all); err != nil {
		return nil
	}
	hooks := []string{"ingress", "prerouting", "input"}
	for _, o := range all.Nftables {
		c := o.Chain
		if c == nil || c.Type != "filter" || !slices.Contains(hooks, c.Hook) || c.Family == "arp" || c.Family == "bridge" {
			continue
		}
		iptables := (c.Family == "ip" || c.Family == "ip6") && slices.Contains([]string{"PREROUTING", "INPUT"}, c.Name)
		if !iptables || !installed("iptables-nft") && !installed("iptables") {
			chains = append(chains, []string{c.Family, c.Table, c.Name})
		}
	}
	return chains
}

// iptablesChains returns the beginnings of commands that insert a rule, for each table that has any.
func (f *firewallCopy) iptablesChains(ctx context.Context) (inserts [][]string) {
	for _, family := range []string{"iptables", "ip6tables"} {
		kinds := []string{family + "-nft", family + "-legacy"}
		if !installed(kinds[0]) {
			kinds[0] = family
		}
		for _, kind := range kinds {
			text, err := f.run(ctx, "", kind+"-save")
			if err != nil {
				continue
			}
			for table := range strings.SplitSeq(text, "\n*") {
				name, _, _ := strings.Cut(table, "\n")
				name = strings.TrimPrefix(name, "*")
				for _, chain := range []string{"PREROUTING", "INPUT"} {
					if name != "nat" && hasRules(table) && strings.Contains(table, "\n:"+chain+" ") {
						inserts = append(inserts, insertInto(kind, name, chain))
					}
				}
			}
		}
	}
	return inserts
}

func insertInto(kind, table, chain string) []string {
	if table == "filter" {
		return []string{kind, "-I", chain}
	}
	return []string{kind, "-t", table, "-I", chain}
}

var ruleHandle = regexp.MustCompile(`# handle (\d+)`)

// apply runs a command that inserts a rule.
func (f *firewallCopy) apply(ctx context.Context, command []string) (patch, error) {
	p := patch{command: command}
	if command[0] != "nft" {
		_, err := f.run(ctx, "", command...)
		p.undo = func(ctx context.Context) error {
			del := slices.Clone(command)
			del[slices.Index(del, "-I")] = "-D"
			_, err := f.run(ctx, "", del...)
			return err
		}
		return p, err
	}
	said, err := f.run(ctx, "", append([]string{"nft", "-a", "-e"}, command[1:]...)...)
	if err != nil {
		return p, err
	}
	handle := ruleHandle.FindStringSubmatch(said)
	p.undo = func(ctx context.Context) error {
		if handle == nil {
			return errors.New("nft does not say which rule it has added")
		}
		_, err := f.run(ctx, "", "nft", "delete", "rule", command[3], command[4], command[5], "handle", handle[1])
		return err
	}
	return p, nil
}
