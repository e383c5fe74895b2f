package doctor

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

// onMachine calls do in a network namespace with a firewall of its own and a network card eth0.
func onMachine(t *testing.T, do func() error) {
	t.Helper()
	reason := ""
	if os.Geteuid() != 0 {
		reason = "network namespaces need root"
	}
	for _, tool := range []string{"nft", "iptables-nft", "iptables-legacy"} {
		if !installed(tool) {
			reason = tool + " is not installed"
		}
	}
	if reason != "" && os.Getenv("CI") == "true" {
		t.Fatal(reason)
	}
	if reason != "" {
		t.Skip(reason)
	}
	ns, err := newNetNS()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	err = enter(ns, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "eth0"
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "far"}); err != nil {
			return err
		}
		if _, err := bringUp("far", nil); err != nil {
			return err
		}
		addrs := []netip.Prefix{netip.MustParsePrefix("10.9.9.2/24"), netip.MustParsePrefix("fd09::2/64")}
		if _, err := bringUp("eth0", addrs); err != nil {
			return err
		}
		return do()
	})
	if err != nil {
		t.Error(err)
	}
}

// firewallCases are rules, the command that loads them, and what of TCP 6273 and UDP 5353 they keep out.
var firewallCases = []struct {
	file, closed string
	load         []string
}{
	{"firewalld-public.nft", "TCP UDP", []string{"nft", "-f"}},
	{"prerouting-drop.nft", "TCP", []string{"nft", "-f"}},
	{"ratelimit.nft", "", []string{"nft", "-f"}},
	{"named-map.nft", "", []string{"nft", "-f"}},
	{"ingress-drop.nft", "TCP", []string{"nft", "-f"}},
	{"two-tables.nft", "TCP UDP", []string{"nft", "-f"}},
	{"ufw.iptables", "TCP", []string{"iptables-nft-restore"}},
	{"ufw.iptables", "TCP", []string{"iptables-legacy-restore"}},
	{"nixos.iptables", "TCP UDP", []string{"iptables-nft-restore"}},
	{"nixos.iptables", "TCP UDP", []string{"iptables-legacy-restore"}},
}

// The kernel decides in the copy as it does here, and the commands that are shown open what was closed, here too.
func TestCopyOfTheFirewallShowsWhatIsClosed(t *testing.T) {
	for _, c := range firewallCases {
		t.Run(c.load[0]+" "+c.file, func(t *testing.T) {
			onMachine(t, func() error {
				load := slices.Concat(c.load, []string{"testdata/firewall/" + c.file})
				if out, err := exec.Command(load[0], load[1:]...).CombinedOutput(); err != nil {
					t.Errorf("%q: %v: %s", load, err, out)
					return nil
				}
				got, err := tryFirewallCopy(t.Context(), "eth0", "6273")
				if strings.Join(got.closed(), " ") != c.closed || (len(got.commands) > 0) != (c.closed != "") {
					t.Errorf("closed is %q, commands %q, %v, want %q", got.closed(), got.commands, err, c.closed)
				}
				for _, command := range got.commands {
					if out, err := exec.Command("sh", "-c", command).CombinedOutput(); err != nil {
						t.Errorf("%s: %v: %s", command, err, out)
					}
				}
				after, err2 := tryFirewallCopy(t.Context(), "eth0", "6273")
				if len(after.closed()) > 0 {
					t.Errorf("%q is closed after %q", after.closed(), got.commands)
				}
				return errors.Join(err, err2)
			})
		})
	}
}

// Each of these tables closes the port by itself, so that each needs a rule.
func TestSuggestedRulesAreFew(t *testing.T) {
	for tables, want := range map[int]int{2: 2, maxSuggested + 1: 0} {
		onMachine(t, func() error {
			for i := range tables {
				table := fmt.Sprintf("table inet t%d { chain in { type filter hook input priority %d; tcp dport 6273 drop; }; }", i, i)
				if out, err := exec.Command("nft", table).CombinedOutput(); err != nil {
					return fmt.Errorf("nft: %w: %s", err, out)
				}
			}
			got, err := tryFirewallCopy(t.Context(), "eth0", "6273")
			if !slices.Equal(got.closed(), []string{"TCP"}) || len(got.commands) != want {
				t.Errorf("%d tables: closed is %q, commands %q, want TCP and %d", tables, got.closed(), got.commands, want)
			}
			return err
		})
	}
}

func TestCopyOfTheFirewallLeavesThisMachineAlone(t *testing.T) {
	onMachine(t, func() error {
		before := lookAround(t)
		_, err := tryFirewallCopy(t.Context(), "eth0", "6273")
		if after := lookAround(t); after != before {
			t.Errorf("before the trial\n%s\nand after it\n%s", before, after)
		}
		return err
	})
}

func lookAround(t *testing.T) string {
	t.Helper()
	ifaces, err := net.Interfaces()
	if err != nil {
		t.Error(err)
	}
	var all []byte
	for _, ifi := range ifaces {
		all = fmt.Appendf(all, "%d %s %s\n", ifi.Index, ifi.Name, ifi.HardwareAddr)
	}
	for _, args := range [][]string{{"ip", "route"}, {"nft", "list", "ruleset"}, {"ip", "-o", "-4", "addr"}} {
		out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
		if err != nil {
			t.Errorf("%q: %v", args, err)
		}
		all = append(all, out...)
	}
	return string(all)
}

func TestCopyOfTheFirewallRefusesWhatItCannotFollow(t *testing.T) {
	onMachine(t, func() error {
		out, err := exec.Command("nft", "add table inet t; add chain inet t in { type filter hook input priority 0; }; add rule inet t "+
			"in meta cgroup 1 tcp dport 6273 drop").CombinedOutput()
		if err != nil {
			t.Errorf("nft: %v: %s", err, out)
		}
		if got, err := tryFirewallCopy(t.Context(), "eth0", "6273"); err == nil || !strings.Contains(err.Error(), `"cgroup"`) {
			t.Errorf("rules about processes: %+v, %v, want an error", got, err)
		}
		return nil
	})
}

func TestOtherAddrIsANeighbours(t *testing.T) {
	taken := map[netip.Addr]bool{netip.MustParseAddr("10.0.0.254"): true, netip.MustParseAddr("10.0.0.1"): true,
		netip.MustParseAddr("10.0.0.2"): true}
	for prefix, want := range map[string]string{
		"10.0.0.5/24": "10.0.0.6", "10.0.0.253/24": "10.0.0.3", "10.0.0.1/24": "10.0.0.3", "10.0.0.1/32": "", "10.0.0.1/31": "10.0.0.0",
		"10.0.0.1/30": "", "fd00::5/64": "fd00::6", "255.255.255.254/24": "255.255.255.1",
	} {
		p := netip.MustParsePrefix(prefix)
		taken[p.Addr()] = true
		got, ok := otherAddr(p, taken)
		if ok != (want != "") || ok && got.String() != want {
			t.Errorf("otherAddr(%s) = %s, %v, want %q", prefix, got, ok, want)
		}
	}
}
