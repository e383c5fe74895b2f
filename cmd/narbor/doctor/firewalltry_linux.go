package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
)

const (
	// suggestTime is used in place of [knockTime] when rules that open the ports are tried, as the addresses are known
	// by then.
	suggestTime = 500 * time.Millisecond
	// maxSuggested bounds such rules: two ports for two families in two tables. Each costs a wait of suggestTime or
	// knockTime. Their number counts, and not the time, because a busy machine takes longer and comes to the same
	// result.
	maxSuggested = 8
)

// tryFirewallCopy tries the rules of this machine in a copy, for one interface.
func tryFirewallCopy(ctx context.Context, iface, port string) (copied, error) {
	rules, err := readRuleset(ctx)
	if err != nil {
		return copied{}, err
	}
	if err := mayCopy(rules, iface); err != nil {
		return copied{}, err
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return copied{}, err
	}
	f, err := newFirewallCopy(iface)
	if err != nil {
		return copied{}, fmt.Errorf("no network namespace can be made: %w", err)
	}
	defer f.close()
	if err := f.load(ctx, rules); err != nil {
		return copied{}, fmt.Errorf("the firewall's rules cannot be copied: %w", err)
	}
	doors, err := f.listen(uint16(number))
	if err != nil {
		return copied{}, err
	}
	defer doors.close()
	c := copied{open: doors.knock(ctx, knockTime)}
	if len(c.closed()) > 0 {
		c.commands = f.suggest(ctx, doors, c.closed(), port)
	}
	return c, nil
}

// mayCopy fails if a copy of the rules would decide otherwise than the original.
func mayCopy(rules ruleset, iface string) error {
	if word := rules.notCopied(); word != "" {
		return fmt.Errorf("the firewall has rules with %q, which depend on more than packets", word)
	}
	lower, _ := filepath.Glob(filepath.Join("/sys/class/net", iface, "lower_*"))
	if len(lower) > 0 && rules.seesLowerDevices() {
		return fmt.Errorf("the firewall has rules for what %s consists of", iface)
	}
	link, err := netlink.LinkByName(iface)
	if err != nil {
		return fmt.Errorf("%s: %w", iface, err)
	}
	if x := link.Attrs().Xdp; x != nil && x.Attached {
		return fmt.Errorf("a BPF program sees the packets of %s before the firewall", iface)
	}
	if filters, err := netlink.FilterList(link, netlink.HANDLE_MIN_INGRESS); err == nil && len(filters) > 0 {
		return fmt.Errorf("tc has filters on %s, which see packets before the firewall", iface)
	}
	return nil
}

// A patch is a rule that lets something in before all others of a chain.
type patch struct {
	command []string
	undo    func(context.Context) error
}

// suggest returns commands that open the closed protocols. Each was tried in the copy, and is needed there.
func (f *firewallCopy) suggest(ctx context.Context, d *doors, closed []string, port string) (commands []string) {
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
		if _, err := f.apply(ctx, p.command); err != nil || ctx.Err() != nil || len(commands) >= maxSuggested {
			return nil
		}
		commands = append(commands, strings.Join(p.command, " "))
	}
	return commands
}

// openings returns the rules that may be needed: one for each protocol in each chain that packets to this machine pass.
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
