package doctor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"time"
)

// firewallTimeout bounds one command that reads or writes a firewall's rules.
const firewallTimeout = 10 * time.Second

// A ruleset is the firewall of this machine, as its tools print it.
type ruleset struct {
	loads []load
}

// A load is a command that puts rules into a network namespace, and its input.
type load struct {
	command []string
	text    string
}

var errNoFirewallTool = errors.New("there is no nft and no iptables to read the firewall's rules with")

// readRuleset reads the rules of this network namespace. Tables that iptables keeps in nftables may have parts that nft
// cannot load again, so that those go through iptables.
func readRuleset(ctx context.Context) (ruleset, error) {
	nft, foreign, errNft := readNftables(ctx)
	saved, errSaved := readIptables(ctx)
	switch {
	case errNft != nil && errSaved != nil:
		return ruleset{}, errNoFirewallTool
	case len(foreign) > 0 && errSaved != nil:
		return ruleset{}, fmt.Errorf("table %s was made by iptables-nft, which is not installed", strings.Join(foreign, ", "))
	}
	r := ruleset{}
	if strings.Contains(joined(saved), "--match-set") {
		sets, err := Output(ctx, "ipset", "save")
		if err != nil {
			return ruleset{}, fmt.Errorf("the rules use sets of ipset, which cannot be read: %w", err)
		}
		r.loads = append(r.loads, load{[]string{"ipset", "restore"}, string(sets)})
	}
	if nft != "" {
		r.loads = append(r.loads, load{[]string{"nft", "-f", "-"}, nft})
	}
	r.loads = append(r.loads, saved...)
	return r, nil
}

func joined(loads []load) string {
	var b strings.Builder
	for _, l := range loads {
		b.WriteString(l.text)
	}
	return b.String()
}

// readNftables returns the tables that nft can load again, without what counters have counted, and the names of others.
func readNftables(ctx context.Context) (text string, foreign []string, err error) {
	list, err := Output(ctx, "nft", "list", "tables")
	if err != nil {
		return "", nil, err
	}
	for line := range strings.Lines(string(list)) {
		w := strings.Fields(line)
		if len(w) != 3 || w[0] != "table" {
			continue
		}
		table, err := combined(ctx, "nft", "-s", "list", "table", w[1], w[2])
		switch {
		case err != nil:
			return "", nil, err
		case strings.Contains(table, "managed by iptables-nft") || strings.Contains(table, "xt match") ||
			strings.Contains(table, "xt target"):
			foreign = append(foreign, w[1]+" "+w[2])
		default:
			text += table
		}
	}
	return text, foreign, nil
}

// readIptables returns what the iptables commands here save, of both kinds and both families.
func readIptables(ctx context.Context) (saved []load, err error) {
	err = errNoFirewallTool
	for _, family := range []string{"iptables", "ip6tables"} {
		kinds := []string{family + "-nft", family + "-legacy"}
		if !installed(kinds[0] + "-save") {
			kinds[0] = family
		}
		for _, kind := range kinds {
			text, e := Output(ctx, kind+"-save")
			if e != nil {
				continue
			}
			err = nil
			if hasRules(string(text)) {
				saved = append(saved, load{[]string{kind + "-restore"}, string(text)})
			}
		}
	}
	return saved, err
}

var savedRule = regexp.MustCompile(`(?m)^(-A |:\S+ DROP)`)

func hasRules(saved string) bool { return savedRule.MatchString(saved) }

var quoted = regexp.MustCompile(`"[^"]*"`)

// beyond is what a copy of the rules decides otherwise than the original: programs and sockets are not copied.
var beyond = regexp.MustCompile(`\b(queue|NFQUEUE|cgroup|cgroupv2|socket|bpf|synproxy|SYNPROXY|tproxy|TPROXY)\b`)

// notCopied returns what in the rules a copy cannot be true to, or "".
func (r ruleset) notCopied() string {
	return beyond.FindString(quoted.ReplaceAllString(joined(r.loads), `""`))
}

// seesLowerDevices reports whether there are rules of families that see packets below a bridge, a bond or a VLAN.
func (r ruleset) seesLowerDevices() bool {
	text := joined(r.loads)
	return strings.Contains(text, "table netdev ") || strings.Contains(text, "table bridge ") || strings.Contains(text, "hook ingress")
}

func installed(name string) bool {
	_, err := exec.LookPath(name)
	return err == nil
}

func succeeds(ctx context.Context, name string, args ...string) bool {
	_, err := Output(ctx, name, args...)
	return err == nil
}

func Output(ctx context.Context, name string, args ...string) ([]byte, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, firewallTimeout)
	defer cancel()
	return exec.CommandContext(ctx, path, args...).Output()
}

// combined returns the output of a command; its standard error comes first, as nft's own comments.
func combined(ctx context.Context, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, firewallTimeout)
	defer cancel()
	var out, warnings bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &out, &warnings
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, firstLine(warnings.String()))
	}
	return warnings.String() + out.String(), nil
}

// A flow is the protocol and the address family of the first packets of a neighbour.
type flow struct {
	proto string // TCP, or UDP for multicast DNS
	v6    bool
}

// copied has the results of a copy of the rules.
type copied struct {
	open     map[flow]bool // of the families that the interface has
	commands []string      // they open the closed ports; empty if there are none known
}

// closed returns the protocols that are blocked over IPv4, or over IPv6 if the interface has no IPv4. One open family
// is enough, and where this machine has IPv4 its neighbours have it as well.
func (c copied) closed() (protos []string) {
	for _, proto := range []string{"TCP", "UDP"} {
		open, has4 := c.open[flow{proto, false}]
		if !has4 {
			open = c.open[flow{proto, true}]
		}
		if !open {
			protos = append(protos, proto)
		}
	}
	return protos
}

// family returns a text about the one address family that is closed; "" if it is none or both.
func (c copied) family(proto string) string {
	four, has4 := c.open[flow{proto, false}]
	six, has6 := c.open[flow{proto, true}]
	switch {
	case !has4 || !has6 || four == six:
		return ""
	case four:
		return " (not over IPv6)"
	}
	return " over IPv4"
}
