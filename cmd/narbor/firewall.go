package main

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// firewallTimeout bounds one look at a firewall's rules.
const firewallTimeout = 10 * time.Second

// checkFirewall goes through the rules with the two packets that neighbours send first.
func checkFirewall(ctx context.Context, p *patient) []Finding {
	if !p.root {
		return []Finding{skipped("only root may see the firewall's rules")}
	}
	port := p.port()
	var ifaces []string
	for _, i := range p.status.Interfaces {
		if i.Used {
			ifaces = append(ifaces, i.Name)
		}
	}
	if len(ifaces) == 0 {
		ifaces = []string{"eth0"}
	}
	var packets []packet
	for _, ifi := range ifaces {
		packets = append(packets, packet{iface: ifi, proto: "tcp", port: port})
		if !p.running || p.status.MDNS {
			packets = append(packets, packet{iface: ifi, proto: "udp", port: "5353", multicast: true})
		}
	}
	tables, looked := readTables(ctx)
	if !looked {
		return []Finding{skipped("there is no nft and no iptables to see the firewall's rules with")}
	}
	var closed, unsure, commands []string
	for _, pk := range packets {
		for _, t := range tables {
			v := t.judge(pk)
			what := fmt.Sprintf("%s %s on %s", strings.ToUpper(pk.proto), pk.port, pk.iface)
			switch v.verdict {
			case verdictDrop:
				closed = appendNew(closed, what)
				commands = appendNew(commands, t.open(pk, v.chain))
			case verdictUnsure:
				unsure = appendNew(unsure, what)
			}
		}
	}
	switch {
	case len(closed) > 0:
		f := Finding{Severity: severityError, Text: "the firewall keeps neighbours out: " + strings.Join(closed, ", "), Safe: true,
			Command: strings.Join(commands, " && "), Fix: "until the firewall is loaded again; put the same into its configuration"}
		p.lastingFix(ctx, &f, port)
		return []Finding{f}
	case len(unsure) > 0:
		return []Finding{{Severity: severityInfo, Text: "the firewall has rules that depend on more than the port; it may keep neighbours out: " + strings.Join(unsure, ", ")}}
	}
	return []Finding{fine("the firewall lets TCP %s and UDP 5353 in", port)}
}

func appendNew(list []string, s string) []string {
	if s == "" || slices.Contains(list, s) {
		return list
	}
	return append(list, s)
}

// lastingFix says how to open the ports for good, where it is known who keeps the rules.
func (p *patient) lastingFix(ctx context.Context, f *Finding, port string) {
	switch {
	case p.nixOS:
		f.Fix = "services.narbor.openFirewall = true; (the command lasts until the next switch)"
	case succeeds(ctx, "firewall-cmd", "--state"):
		f.Fix, f.Command = "for good", fmt.Sprintf("firewall-cmd --permanent --add-service=mdns --add-port=%s/tcp && firewall-cmd --reload", port)
	case strings.Contains(f.Command, "ufw") || succeeds(ctx, "ufw", "status"):
		f.Fix, f.Command = "for good", fmt.Sprintf("ufw allow %s/tcp && ufw allow 5353/udp", port)
	}
}

func succeeds(ctx context.Context, name string, args ...string) bool {
	_, err := output(ctx, name, args...)
	return err == nil
}

func output(ctx context.Context, name string, args ...string) ([]byte, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, firewallTimeout)
	defer cancel()
	return exec.CommandContext(ctx, path, args...).Output()
}

// readTables returns the firewalls that there are, and whether any could be looked at.
func readTables(ctx context.Context) (tables []firewall, looked bool) {
	if text, err := output(ctx, "nft", "-j", "list", "ruleset"); err == nil {
		if t, err := parseNft(text); err == nil {
			tables, looked = append(tables, t), true
		}
	}
	for _, name := range []string{"iptables-legacy", "iptables"} { // the plain one shows nft's rules where that is in use
		if text, err := output(ctx, name, "-S"); err == nil {
			return append(tables, parseIptables(string(text))), true
		}
	}
	return tables, looked
}

// A firewall is a set of chains of rules.
type firewall struct {
	base   []string // chains that packets to this machine go through, each by itself
	policy map[string]string
	chains map[string][]rule
	insert func(pk packet, chain string) string
}

// A packet is the first that a neighbour sends.
type packet struct {
	iface, proto, port string
	multicast          bool
}

// A truth may be unknown: a rule may look at what is not known of the packet.
type truth int

const (
	no truth = iota
	yes
	maybe
)

func (t truth) and(o truth) truth {
	switch {
	case t == no || o == no:
		return no
	case t == maybe || o == maybe:
		return maybe
	}
	return yes
}

// A rule does something with the packets that match.
type rule struct {
	match func(packet) truth
	// verdict is accept, drop, return, or "jump " or "goto " with a chain; "" does nothing to the packet.
	verdict func(packet) (string, truth)
}

const (
	verdictAccept = "accept"
	verdictDrop   = "drop"
	verdictReturn = "return"
	verdictUnsure = "unsure"
)

// A judgement is what becomes of a packet, and in which base chain.
type judgement struct{ verdict, chain string }

// judge sends a packet through all base chains: one that drops it is enough.
func (f firewall) judge(pk packet) judgement {
	worst := judgement{verdict: verdictAccept}
	for _, base := range f.base {
		w := walk{f: f, pk: pk}
		v := w.chain(base, 0)
		if v == "" || v == verdictReturn {
			v = f.policy[base]
		}
		switch {
		case v == verdictDrop && w.mayAccept:
			worst = judgement{verdictUnsure, base}
		case v == verdictDrop:
			return judgement{verdictDrop, base}
		}
	}
	return worst
}

// open is the command that lets a packet in before any other rule of a chain.
func (f firewall) open(pk packet, chain string) string { return f.insert(pk, chain) }

// A walk is a packet's way through chains.
type walk struct {
	f         firewall
	pk        packet
	mayAccept bool // a rule would have accepted it if what is not known of it is so
}

// maxDepth is how deep chains may jump; the kernel allows 16.
const maxDepth = 20

// chain returns the verdict, or "" at its end.
func (w *walk) chain(name string, depth int) string {
	if depth > maxDepth {
		return ""
	}
	for _, r := range w.f.chains[name] {
		m := r.match(w.pk)
		if m == no {
			continue
		}
		v, sure := r.verdict(w.pk)
		m = m.and(sure)
		if m == no || v == "" {
			continue
		}
		how, target, _ := strings.Cut(v, " ")
		if target != "" {
			v = w.chain(target, depth+1)
		}
		switch {
		case v == verdictAccept && m == maybe:
			w.mayAccept = true
		case m == maybe || how == "jump" && (v == "" || v == verdictReturn): // what may drop it is taken not to
		default:
			return v
		}
	}
	return ""
}
