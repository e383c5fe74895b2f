package integration_test

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"narbor/integration/lan"
)

const (
	noMulticast   = "udp dport 5353 drop"
	halfMulticast = "udp dport 5353 numgen random mod 2 == 0 drop"
	// meshLimit bounds the time from the first start until all machines are neighbours of each other, besides what
	// other load makes of it, which is taken to be twice the time that their starts take.
	meshLimit = 15 * time.Second
)

// plain adds a machine that has narbor and no Nix daemon. Of what comes in, this rule of nft is applied first.
func (w world) plain(name, rule string) *lan.Host {
	w.Helper()
	h, err := w.lan.Add(lan.HostConfig{Name: name, Binds: map[string]string{"opt": programs.dir}})
	w.must(err)
	if rule != "" {
		_, err = h.Run(w.ctx, "nft", "add table inet loss; add chain inet loss in { type filter hook input priority 0; }; "+
			"add rule inet loss in "+rule)
		w.must(err)
	}
	return h
}

// router adds a machine without narbor, and makes it the gateway of these.
func (w world) router(hosts []*lan.Host) *lan.Host {
	w.Helper()
	r := w.plain("router", "")
	for _, h := range hosts {
		_, err := h.Run(w.ctx, "ip", "route", "add", "default", "via", r.Addr4.String())
		w.must(err)
	}
	return r
}

// startAll starts narbor on all machines at once. The first is given the first arguments, all others the others.
func (w world) startAll(hosts []*lan.Host, first, others []string) []*lan.Process {
	w.Helper()
	procs, errs := make([]*lan.Process, len(hosts)), make([]error, len(hosts))
	var starting sync.WaitGroup
	for i, h := range hosts {
		args := others
		if i == 0 {
			args = first
		}
		starting.Go(func() { procs[i], errs[i] = h.StartNarbor(narbor, args...) })
	}
	starting.Wait()
	for _, err := range errs {
		w.must(err)
	}
	return procs
}

// mesh waits until each machine has all others for neighbours, and returns how often they were found in which way.
func (w world) mesh(what string, hosts []*lan.Host, began time.Time) map[string]int {
	w.Helper()
	vias, missing := map[string]int{}, hosts
	limit := lan.AtMost(meshLimit) + 2*time.Since(began)
	for deadline := time.Now().Add(lan.AtMost(time.Minute)); len(missing) > 0; {
		s, err := missing[0].Status(w.ctx, narbor)
		if err == nil && len(s.Neighbours) >= len(hosts)-1 {
			for _, nb := range s.Neighbours {
				vias[nb.Via]++
			}
			missing = missing[1:]
			continue
		}
		if time.Now().After(deadline) {
			w.absent(hosts)
			w.Fatalf("%s: %s has %d neighbours of %d, %v", what, missing[0].Name, len(s.Neighbours), len(hosts)-1, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	took := time.Since(began).Round(10 * time.Millisecond)
	w.Logf("%s: a full mesh of %d after %s, found by %v", what, len(hosts), took, vias)
	if took > limit {
		w.Errorf("%s: a full mesh after %s, want %s", what, took, limit)
	}
	return vias
}

// absent logs which machines each one has no connection to.
func (w world) absent(hosts []*lan.Host) {
	w.Helper()
	for _, h := range hosts {
		s, err := h.Status(w.ctx, narbor)
		lost := slices.DeleteFunc(slices.Clone(hosts), func(other *lan.Host) bool {
			for _, nb := range s.Neighbours {
				if at(nb.Addr, other) {
					return true
				}
			}
			return other == h
		})
		for _, other := range lost {
			w.Logf("%s is no neighbour of %s, error %v", other.Name, h.Name, err)
		}
	}
}

// countSYNs makes a host count the connections that narbor begins: to the gateway's narbor port, to its other ports,
// and off the link. It returns what reads the counts.
func (w world) countSYNs(h, gateway *lan.Host) func() map[string]int {
	w.Helper()
	script := "add table inet s; add chain inet s out { type filter hook output priority 0; }"
	for name, where := range map[string]string{
		"gateway":  "ip daddr " + gateway.Addr4.String() + " tcp dport 6273",
		"others":   "ip daddr " + gateway.Addr4.String() + " tcp dport != 6273",
		"offlink4": "oif != lo ip daddr != 10.62.72.0/24",
		"offlink6": "oif != lo ip6 daddr != fd62:7200::/64",
	} {
		script += fmt.Sprintf(`; add rule inet s out meta skuid 65534 tcp flags & (syn|ack) == syn %s counter comment "%s"`, where, name)
	}
	_, err := h.Run(w.ctx, "nft", script)
	w.must(err)
	return func() map[string]int {
		out, err := h.Run(w.ctx, "nft", "list", "table", "inet", "s")
		w.must(err)
		counts := map[string]int{}
		for _, m := range regexp.MustCompile(`counter packets (\d+) .* comment "(\w+)"`).FindAllStringSubmatch(out, -1) {
			counts[m[2]], _ = strconv.Atoi(m[1])
		}
		return counts
	}
}

// Without multicast, each machine is configured with the same one as a peer, and all become neighbours of each other.
// They do so again after a restart without configured peers, when each remembers only one.
func TestMeshWithoutMulticast(t *testing.T) {
	const size = 12
	w := newWorld(t)
	var hosts []*lan.Host
	for i := range size {
		hosts = append(hosts, w.plain(fmt.Sprintf("host%d", i), noMulticast))
	}
	gateway := w.router(hosts)
	counts := w.countSYNs(hosts[1], gateway)

	began := time.Now()
	procs := w.startAll(hosts, nil, []string{"--peer", hosts[0].Addr4.String()})
	vias := w.mesh("one static peer", hosts, began)
	if vias["exchange"] == 0 || vias["mdns"] > 0 {
		t.Errorf("found by %v, want most by exchange, and none by mdns", vias)
	}
	hub := w.status(hosts[0]).PeerID
	var ending sync.WaitGroup
	for _, p := range procs {
		ending.Go(func() {
			if err := p.Terminate(20 * time.Second); err != nil {
				t.Error(err)
			}
		})
	}
	ending.Wait()
	for _, h := range hosts[1:] {
		w.rememberOnly(h, hub)
	}
	w.must(hosts[0].WriteFile("/var/lib/narbor/networks.json", "["))

	began = time.Now()
	w.startAll(hosts, nil, nil)
	vias = w.mesh("one remembered peer", hosts, began)
	if vias["remembered"] < size-1 || vias["mdns"] > 0 || vias["named"] > 0 {
		t.Errorf("found by %v, want %d who remember one", vias, size-1)
	}
	got := counts()
	t.Logf("dials of %s in two runs: %v", hosts[1].Name, got)
	if got["gateway"] != 2 || got["others"] != 0 || got["offlink4"] != 0 || got["offlink6"] != 0 || len(got) != 4 {
		t.Errorf("dials are %v, want one to the gateway in each run and none to its other ports and off the link", got)
	}
}

// rememberOnly makes a host forget all but one peer, in each network where it remembers that.
func (w world) rememberOnly(h *lan.Host, id string) {
	w.Helper()
	const file = "/var/lib/narbor/networks.json"
	text, err := h.ReadFile(file)
	w.must(err)
	var all, kept []map[string]any
	w.must(json.Unmarshal([]byte(text), &all))
	for _, x := range all {
		if strings.HasSuffix(x["peer"].(string), "/"+id) {
			kept = append(kept, x)
		}
	}
	if len(kept) == 0 || len(all) == len(kept) {
		w.Fatalf("%s remembers %s, want all, and %s", h.Name, text, id)
	}
	b, err := json.Marshal(kept)
	w.must(err)
	w.must(h.WriteFile(file, string(b)))
}

// Half of all multicast packets are lost on the way to each machine.
func TestMeshWithHalfOfMulticast(t *testing.T) {
	const size = 20
	w := newWorld(t)
	var hosts []*lan.Host
	for i := range size {
		hosts = append(hosts, w.plain(fmt.Sprintf("host%d", i), halfMulticast))
	}
	began := time.Now()
	w.startAll(hosts, nil, nil)
	w.mesh("half of multicast lost", hosts, began)
}

// A guest finds its host, which is its gateway, and another machine that the kernel's command line names.
func TestGatewayAndKernelCommandLine(t *testing.T) {
	w := newWorld(t)
	host, guest, booted := w.plain("host", noMulticast), w.plain("guest", noMulticast), w.plain("booted", noMulticast)
	_, err := guest.Run(w.ctx, "ip", "route", "add", "default", "via", host.Addr4.String())
	w.must(err)
	w.must(booted.WriteFile("/etc/cmdline", "quiet narbor.peers="+host.Addr4.String()+",nobody.invalid\n"))
	_, err = booted.Run(w.ctx, "mount", "--bind", "/etc/cmdline", "/proc/cmdline")
	w.must(err)
	w.start(host)
	w.start(guest)
	w.start(booted)
	for h, want := range map[*lan.Host]string{guest: "gateway", booted: "kernel"} {
		for _, nb := range w.neighbours(h, 1).Neighbours {
			if at(nb.Addr, host) && nb.Via != want {
				t.Errorf("%s has found its host by %q, want %q", h.Name, nb.Via, want)
			}
		}
	}
	for _, h := range []*lan.Host{host, guest, booted} {
		w.neighbours(h, 2)
	}
}

// A guest finds its host by its link-local address, as a router gives it that announces itself by IPv6, and by that on
// the right one of two links that each have such a gateway.
func TestLinkLocalGateway(t *testing.T) {
	w := newWorld(t)
	host, guest := w.plain("host", noMulticast), w.plain("guest", noMulticast)
	_, err := guest.Run(w.ctx, "sh", "-c", "ip link add eth1 type veth peer name far && ip link set eth1 up && ip link set far up")
	w.must(err)
	addr, err := host.Run(w.ctx, "sh", "-c", "ip -6 -o addr show dev eth0 scope link | grep -o 'fe80[^/]*'")
	w.must(err)
	addr = strings.TrimSpace(addr)
	for _, route := range []string{"default via fe80::1 dev eth1 metric 100", "default via " + addr + " dev eth0 metric 200"} {
		_, err = guest.Run(w.ctx, "sh", "-c", "ip -6 route add "+route)
		w.must(err)
	}
	w.start(host)
	w.start(guest)
	nb := w.neighbours(guest, 1).Neighbours[0]
	if nb.Via != "gateway" || !strings.HasPrefix(nb.Addr, "/ip6zone/eth0/ip6/"+addr+"/tcp/6273") {
		t.Errorf("the guest has found its host by %q at %s, want gateway at %s on eth0", nb.Via, nb.Addr, addr)
	}
}
