package integration_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"narbor/integration/lan"
)

// The address families that a host of these tests may have instead of both.
const (
	onlyIPv4      = "echo 1 > /proc/sys/net/ipv6/conf/eth0/disable_ipv6"
	onlyIPv6      = "ip -4 addr flush dev eth0"
	onlyLinkLocal = "ip addr flush dev eth0 scope global"
)

// bare adds a machine without Nix, runs a script on it, and starts narbor.
func (w world) bare(l *lan.LAN, name string, scripts ...string) *lan.Host {
	w.Helper()
	h, err := l.Add(lan.HostConfig{Name: name, Binds: map[string]string{"opt": programs.dir}})
	w.must(err)
	for _, script := range scripts {
		_, err := h.Run(w.ctx, "sh", "-ec", script)
		w.must(err)
	}
	w.start(h)
	return h
}

// meshes waits until each of the hosts has n neighbours, and returns their addresses and how long it took.
func (w world) meshes(hosts []*lan.Host, n int) (addrs []string, took time.Duration) {
	w.Helper()
	start := time.Now()
	ctx, cancel := context.WithTimeout(w.ctx, lan.AtMost(time.Minute))
	defer cancel()
	var all sync.Mutex
	var waiting sync.WaitGroup
	errs := make([]error, len(hosts))
	for i, h := range hosts {
		waiting.Go(func() {
			s, err := h.WaitNeighbours(ctx, narbor, n)
			errs[i] = err
			all.Lock()
			defer all.Unlock()
			for _, nb := range s.Neighbours {
				addrs = append(addrs, nb.Addr)
			}
		})
	}
	waiting.Wait()
	for _, err := range errs {
		w.must(err)
	}
	return addrs, time.Since(start)
}

// Twenty machines in one /64, and no IPv4: libp2p's own limits would let in eight.
func TestTwentyHostsInOneIPv6Prefix(t *testing.T) {
	w := newWorld(t)
	const n = 20
	var hosts []*lan.Host
	start := time.Now()
	for i := range n {
		hosts = append(hosts, w.bare(w.lan, fmt.Sprintf("h%d", i), onlyIPv6))
	}
	started := time.Since(start)
	addrs, took := w.meshes(hosts, n-1)
	t.Logf("FIGURE full mesh of %d hosts in one /64: %.1f s after the last was started (starting them took %.1f s)", n, took.Seconds(),
		started.Seconds())
	if i := slices.IndexFunc(addrs, func(a string) bool { return !strings.HasPrefix(a, "/ip6/fd62:") }); i >= 0 {
		t.Errorf("connected by %s, though there are addresses of the prefix", addrs[i])
	}
}

// On a network without configured addresses, the machines find each other by the kernels' link-local ones.
func TestLinkLocalAddressesAreEnough(t *testing.T) {
	w := newWorld(t)
	var hosts []*lan.Host
	for i := range 4 {
		hosts = append(hosts, w.bare(w.lan, fmt.Sprintf("h%d", i), onlyLinkLocal))
	}
	addrs, took := w.meshes(hosts, len(hosts)-1)
	t.Logf("FIGURE full mesh of %d hosts with nothing but link-local IPv6: %.1f s", len(hosts), took.Seconds())
	if i := slices.IndexFunc(addrs, func(a string) bool { return !strings.HasPrefix(a, "/ip6zone/eth0/ip6/fe80:") }); i >= 0 {
		t.Errorf("connected by %s", addrs[i])
	}
}

// Machines with IPv4, IPv6 or both find all machines that they can reach. One of them also is in a second network,
// which has link-local addresses only.
func TestMixedFamiliesAndTwoNetworks(t *testing.T) {
	w := newWorld(t)
	other, err := lan.New(t.TempDir())
	w.must(err)
	t.Cleanup(func() { other.Close() })
	four, six, local := w.bare(w.lan, "four", onlyIPv4), w.bare(w.lan, "six", onlyIPv6), w.bare(w.lan, "local", onlyLinkLocal)
	both, err := w.lan.Add(lan.HostConfig{Name: "both", Binds: map[string]string{"opt": programs.dir}})
	w.must(err)
	w.must(other.Connect(both))
	far := w.bare(other, "far", onlyLinkLocal)
	w.start(both)
	for _, c := range []struct {
		host *lan.Host
		want []string // how the addresses of its neighbours begin
	}{
		{four, []string{"/ip4/10.62.72.4/"}},
		{six, []string{"/ip6/fd62:7200::4/", "/ip6zone/eth0/ip6/fe80:"}},
		{local, []string{"/ip6zone/eth0/ip6/fe80:", "/ip6zone/eth0/ip6/fe80:"}},
		{both, []string{"/ip4/10.62.72.1/", "/ip6/fd62:7200::2/", "/ip6zone/eth0/ip6/fe80:", "/ip6zone/eth1/ip6/fe80:"}},
		{far, []string{"/ip6zone/eth0/ip6/fe80:"}},
	} {
		start := time.Now()
		s := w.neighbours(c.host, len(c.want))
		t.Logf("FIGURE %s has its %d neighbours after another %.1f s", c.host.Name, len(c.want), time.Since(start).Seconds())
		var addrs []string
		for _, nb := range s.Neighbours {
			addrs = append(addrs, nb.Addr+"/") // the port may be missing
		}
		slices.Sort(addrs)
		if !slices.EqualFunc(addrs, c.want, strings.HasPrefix) {
			t.Errorf("%s is connected by %q, want %q", c.host.Name, addrs, c.want)
		}
	}
}
