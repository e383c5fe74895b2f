package main

import (
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"narbor/store"
)

// A redactor replaces peers, networks, interfaces and keys by numbers, the same ones in every part of a report. What it
// returns is made of its own words and of numbers, never of its input.
type redactor struct {
	seen map[string]map[string]int // by kind
}

func newRedactor() *redactor { return &redactor{map[string]map[string]int{}} }

// number returns the number of a value among those of its kind, from 1 on.
func (r *redactor) number(kind, value string) int {
	if r.seen[kind] == nil {
		r.seen[kind] = map[string]int{}
	}
	if r.seen[kind][value] == 0 {
		r.seen[kind][value] = len(r.seen[kind]) + 1
	}
	return r.seen[kind][value]
}

func (r *redactor) peer(id string) string {
	if id == "" {
		return ""
	}
	return fmt.Sprintf("peer-%d", r.number("peer", id))
}

// key keeps the name of the key that every Nix trusts by default.
func (r *redactor) key(name string) string {
	const everybodys = "cache.nixos.org-1"
	if name == everybodys {
		return name
	}
	return fmt.Sprintf("key-%d", r.number("key", name))
}

// iface keeps the usual beginning of an interface's name: the rest may be a hardware address, or chosen by a person.
func (r *redactor) iface(name string) string {
	for _, usual := range []string{"docker", "podman", "veth", "virbr", "vmbr", "tailscale", "bond", "vlan", "eth", "enp", "eno", "ens",
		"enx",
		"wlan", "wlp", "wlx", "wwan", "br-", "tun", "tap", "wg", "zt", "en", "wl", "br", "lo"} {
		if strings.HasPrefix(name, usual) {
			return fmt.Sprintf("%s %d", strings.TrimSuffix(usual, "-"), r.number("interface", name))
		}
	}
	return fmt.Sprintf("other %d", r.number("interface", name))
}

// address says of which kind an address is, and numbers it and its network: a /24 or a /64. It takes a multiaddr, or an
// address with or without a port.
func (r *redactor) address(text string) string {
	if strings.HasPrefix(text, "vsock:") {
		return fmt.Sprintf("vsock %d", r.number("vsock", text))
	}
	a, port, ok := parseAddress(text)
	if !ok {
		return fmt.Sprintf("name %d", r.number("name", text))
	}
	if port != "" {
		port = ", port " + port
	}
	family, bits := "IPv4", 24
	if a.Is6() {
		family, bits = "IPv6", 64
	}
	if a.IsLoopback() || a.IsUnspecified() {
		return fmt.Sprintf("%s %s%s", family, rangeOf(a), port)
	}
	network, _ := a.Prefix(bits)
	return fmt.Sprintf("%s %s, network %d, machine %d%s", family, rangeOf(a), r.number("network", network.String()),
		r.number("address", a.String()), port)
}

func rangeOf(a netip.Addr) string {
	switch {
	case a.IsLoopback():
		return "loopback"
	case a.IsUnspecified():
		return "any"
	case a.IsLinkLocalUnicast():
		return "link-local"
	case a.IsPrivate():
		return "private"
	}
	return "public"
}

func parseAddress(text string) (a netip.Addr, port string, ok bool) {
	if m, err := ma.NewMultiaddr(text); err == nil {
		ip, err := manet.ToIP(m)
		if err != nil {
			return a, "", false
		}
		a, ok = netip.AddrFromSlice(ip)
		port, _ = m.ValueForProtocol(ma.P_TCP)
		return a.Unmap(), port, ok
	}
	if ap, err := netip.ParseAddrPort(text); err == nil {
		return ap.Addr().Unmap().WithZone(""), strconv.Itoa(int(ap.Port())), true
	}
	a, err := netip.ParseAddr(text)
	return a.Unmap().WithZone(""), "", err == nil
}

// safePhrases are parts of errors and findings that have no names in them.
var safePhrases = []string{
	"address already in use", "broken pipe", "certificate", "connection refused", "connection reset by peer", "context canceled",
	"deadline exceeded", "does not have its hash", "EOF", "forged", "i/o timeout", "input/output error", "is not running", "malformed",
	"network is unreachable", "no route to host", "no space left on device", "no such file or directory", "no such host", "not allowed",
	"not found", "operation not permitted", "permission denied", "protocols not supported", "read-only file system", "too many open files",
	"stale", "text file busy", "too busy", "unexpected EOF",
	"it does not cooperate (--no-cooperate)", "it has no upstream", "it is on a metered network",
	"it runs on battery", "it shares nothing", "an upstream's URL has a user or a password",
	"loopback", "excluded by --no-interface", "not among --interface", "containers, by its name", "VPN, by its name",
	"container or tunnel, by its name",
	"part of", "tunnel", "belongs to a virtual machine", "no machine is behind it", "point-to-point", "no multicast",
	"leads to a container",
	"bridge of containers", "no carrier", "no address", "metered",
	"is not of this NAR", "about another path", "asks for what is not here", "signature",
}

// phrases returns which of the known phrases a text has in it. Of two phrases, one in the other, the longer one counts.
func phrases(text string) string {
	var found []string
	for _, k := range safePhrases {
		if strings.Contains(text, k) && !slices.ContainsFunc(safePhrases,
			func(l string) bool { return len(l) > len(k) && strings.Contains(l, k) && strings.Contains(text, l) }) {
			found = append(found, k)
		}
	}
	switch {
	case text == "":
		return ""
	case len(found) == 0:
		return "(left out)"
	}
	return strings.Join(found, "; ")
}

// A keeper returns what of a JSON value goes into a report; nil is nothing.
type keeper func(r *redactor, v any) any

// keepFields keeps of an object the fields that have a rule.
func keepFields(rules map[string]keeper) keeper {
	return func(r *redactor, v any) any {
		from, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		out := map[string]any{}
		for _, name := range slices.Sorted(maps.Keys(from)) { // in one order, for the numbers
			if keep := rules[name]; keep != nil {
				if kept := keep(r, from[name]); kept != nil {
					out[name] = kept
				}
			}
		}
		return out
	}
}

func keepEach(keep keeper) keeper {
	return func(r *redactor, v any) any {
		list, ok := v.([]any)
		if !ok {
			return nil
		}
		out := []any{}
		for _, one := range list {
			if kept := keep(r, one); kept != nil {
				out = append(out, kept)
			}
		}
		return out
	}
}

func keepText(f func(r *redactor, s string) string) keeper {
	return func(r *redactor, v any) any {
		s, ok := v.(string)
		if !ok {
			return nil
		}
		return f(r, s)
	}
}

// keepWord keeps a string that is one of these.
func keepWord(words ...string) keeper {
	return keepText(func(_ *redactor, s string) string {
		if s == "" || slices.Contains(words, s) {
			return s
		}
		return "(left out)"
	})
}

// keepPattern keeps a string that matches as a whole.
func keepPattern(expr string) keeper {
	p := regexp.MustCompile("^(?:" + expr + ")$")
	return keepText(func(_ *redactor, s string) string {
		if s == "" || p.MatchString(s) {
			return s
		}
		return "(left out)"
	})
}

// keepNumber keeps numbers, true and false.
func keepNumber(_ *redactor, v any) any {
	switch v.(type) {
	case float64, bool:
		return v
	}
	return nil
}

// keepLength is how long a list is.
func keepLength(_ *redactor, v any) any {
	list, ok := v.([]any)
	if !ok {
		return nil
	}
	return len(list)
}

// keepPresence reports whether a string is there.
func keepPresence(_ *redactor, v any) any {
	s, ok := v.(string)
	return ok && s != ""
}

func peerRule() keeper    { return keepText((*redactor).peer) }
func addressRule() keeper { return keepText((*redactor).address) }
func keyRule() keeper     { return keepText((*redactor).key) }
func phraseRule() keeper  { return keepText(func(_ *redactor, s string) string { return phrases(s) }) }
func momentRule() keeper {
	return keepPattern(`\d{4}-\d\d-\d\d(T\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d))?`)
}
func originRule() keeper {
	return keepWord(string(store.FromNeighbours), string(store.FromOthers), string(store.FromInternet), string(store.FromRebuild),
		string(store.FromStore))
}

func keepNumbers(names ...string) keeper {
	rules := map[string]keeper{}
	for _, name := range names {
		rules[name] = keepNumber
	}
	return keepFields(rules)
}
