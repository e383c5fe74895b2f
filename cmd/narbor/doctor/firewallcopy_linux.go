package doctor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// maxCopiedInterfaces bounds the interfaces that a copy has: a host of containers may have thousands.
const maxCopiedInterfaces = 256

// A firewallCopy is two network namespaces with a cable between them. Inside are interfaces of the same names as this
// machine's, of which one has its addresses and the cable, and a copy of the firewall's rules; outside is a neighbour.
// The kernel decides about packets there as it does here, and this machine's own network is not touched. Both
// namespaces end with the descriptors, and so with the process, however that ends.
type firewallCopy struct {
	inside, outside *os.File
	iface           string
	index           int // of the cable's end outside
	pairs           []addrPair
}

// An addrPair is an address of the interface, and one of a neighbour in the same network.
type addrPair struct {
	here, there netip.Prefix
}

// newFirewallCopy makes the namespaces and the interfaces, and gives them addresses.
func newFirewallCopy(iface string) (f *firewallCopy, err error) {
	pairs, err := addrPairs(iface)
	if err != nil {
		return nil, err
	}
	all, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	f = &firewallCopy{iface: iface, pairs: pairs}
	defer func() {
		if err != nil {
			f.close()
		}
	}()
	if f.inside, err = newNetNS(); err != nil {
		return nil, err
	}
	if f.outside, err = newNetNS(); err != nil {
		return nil, err
	}
	if err := enter(f.inside, func() error { return f.furnish(all) }); err != nil {
		return nil, err
	}
	return f, enter(f.outside, func() (err error) {
		there := make([]netip.Prefix, len(pairs))
		for i, p := range pairs {
			there[i] = p.there
		}
		f.index, err = bringUp("cable", there)
		return err
	})
}

// furnish makes the interfaces inside: the cable, and namesakes of the others for rules that name them.
func (f *firewallCopy) furnish(all []net.Interface) error {
	if _, err := bringUp("lo", nil); err != nil {
		return err
	}
	cable := netlink.NewLinkAttrs()
	cable.Name = f.iface
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: cable, PeerName: "cable",
		PeerNamespace: netlink.NsFd(int(f.outside.Fd()))}); err != nil {
		return fmt.Errorf("veth: %w", err)
	}
	for i, ifi := range all[:min(len(all), maxCopiedInterfaces)] {
		if ifi.Name == f.iface || ifi.Name == "lo" {
			continue
		}
		namesake := netlink.NewLinkAttrs()
		namesake.Name = ifi.Name
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: namesake, PeerName: fmt.Sprintf("nb-end%d", i)}); err != nil &&
			!errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("veth %s: %w", ifi.Name, err)
		}
	}
	here := make([]netip.Prefix, len(f.pairs))
	for i, p := range f.pairs {
		here[i] = p.here
	}
	_, err := bringUp(f.iface, here)
	return err
}

// bringUp gives an interface its addresses and brings it up. It returns its index.
func bringUp(name string, addrs []netip.Prefix) (int, error) {
	// Duplicate address detection would keep addresses useless for two seconds; where this cannot be written,
	// link-local addresses take that long.
	_ = os.WriteFile(filepath.Join("/proc/sys/net/ipv6/conf", name, "accept_dad"), []byte("0"), 0)
	link, err := netlink.LinkByName(name)
	if err != nil {
		return 0, err
	}
	for _, a := range addrs {
		addr := &netlink.Addr{IPNet: &net.IPNet{IP: a.Addr().AsSlice(), Mask: net.CIDRMask(a.Bits(), a.Addr().BitLen())}}
		if a.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(link, addr); err != nil && !errors.Is(err, unix.EEXIST) {
			return 0, fmt.Errorf("address %s: %w", a, err)
		}
	}
	return link.Attrs().Index, netlink.LinkSetUp(link)
}

func (f *firewallCopy) close() {
	for _, ns := range []*os.File{f.inside, f.outside} {
		if ns != nil {
			ns.Close()
		}
	}
}

func (f *firewallCopy) load(ctx context.Context, rules ruleset) error {
	for _, l := range rules.loads {
		if _, err := f.run(ctx, l.text, l.command...); err != nil {
			return err
		}
	}
	return nil
}

func (f *firewallCopy) run(ctx context.Context, stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, firewallTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	if err := enter(f.inside, cmd.Start); err != nil {
		return "", err
	}
	if err := cmd.Wait(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, firstLine(errs.String()))
	}
	return out.String(), nil
}

// newNetNS makes a network namespace, which lasts as long as the file is open or a thread is in it.
func newNetNS() (ns *os.File, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err = unix.Unshare(unix.CLONE_NEWNET); err == nil {
			ns, err = os.Open("/proc/thread-self/ns/net")
		}
	}()
	<-done
	return ns, err
}

// enter calls do on a thread in the namespace. Sockets and processes that do makes stay there.
func enter(ns *os.File, do func() error) (err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked
		if err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err == nil {
			err = do()
		}
	}()
	<-done
	return err
}

// addrPairs returns an address of each family that the interface has, with a neighbour's.
func addrPairs(iface string) ([]addrPair, error) {
	ifi, err := net.InterfaceByName(iface)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", iface, err)
	}
	addrs, err := ifi.Addrs()
	if err != nil {
		return nil, err
	}
	var prefixes []netip.Prefix
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			prefixes = append(prefixes, p)
		}
	}
	// Global addresses come before link-local ones.
	slices.SortStableFunc(prefixes, func(a, b netip.Prefix) int {
		return boolInt(a.Addr().IsLinkLocalUnicast()) - boolInt(b.Addr().IsLinkLocalUnicast())
	})
	taken := map[netip.Addr]bool{}
	for _, p := range prefixes {
		taken[p.Addr()] = true
	}
	for _, a := range gatewaysOf(ifi.Index) {
		taken[a] = true
	}
	var pairs []addrPair
	for _, p := range prefixes {
		if slices.ContainsFunc(pairs, func(o addrPair) bool { return o.here.Addr().Is4() == p.Addr().Is4() }) {
			continue
		}
		if there, ok := otherAddr(p, taken); ok {
			pairs = append(pairs, addrPair{p, netip.PrefixFrom(there, p.Bits())})
		}
	}
	if len(pairs) == 0 {
		return nil, fmt.Errorf("%s has no address in a network with others", iface)
	}
	return pairs, nil
}

func (f *firewallCopy) hasIPv4() bool {
	return slices.ContainsFunc(f.pairs, func(p addrPair) bool { return p.here.Addr().Is4() })
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// gatewaysOf returns the routers behind an interface: the firewall may let them in and nothing else.
func gatewaysOf(index int) (out []netip.Addr) {
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{LinkIndex: index}, netlink.RT_FILTER_OIF)
	if err != nil {
		return nil
	}
	for _, r := range routes {
		if a, ok := netip.AddrFromSlice(r.Gw); ok {
			out = append(out, a.Unmap())
		}
	}
	return out
}

// otherAddr returns an address of a network that is not taken, and not the network's own first and last one.
func otherAddr(p netip.Prefix, taken map[netip.Addr]bool) (netip.Addr, bool) {
	free := func(a netip.Addr) bool {
		edge := p.Addr().BitLen()-p.Bits() > 1 && (a == p.Masked().Addr() || !p.Contains(a.Next()))
		return p.Contains(a) && !taken[a] && !edge
	}
	a := p.Addr().Next()
	for range len(taken) + 4 {
		if !a.IsValid() || !p.Contains(a) {
			a = p.Masked().Addr()
		}
		if free(a) {
			return a, true
		}
		a = a.Next()
	}
	return netip.Addr{}, false
}
