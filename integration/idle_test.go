package integration_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"narbor/integration/lan"
)

// Limits for the resources of machines on one LAN without requests.
const (
	idleShare   = 0.01     // of a core, for 60 of them together
	idleMemory  = 40 << 20 // bytes, for each
	idlePackets = 1.0      // of multicast DNS, from each in a second

	// idleSlack is by how much the short form may miss idleShare: it begins soon after all have started, while each
	// still looks around every second, and on a machine that may be busy with other tests.
	idleSlack = 15
)

// Many narbors at rest on one computer, without Nix: each takes a sixtieth of a hundredth of a core, 40 MiB, and sends
// hardly a packet. The short form is of 20, with their share of the limits.
func TestManyNarborsIdle(t *testing.T) {
	n, settle, watched := 20, 16*time.Second, 8*time.Second // between two turns to ask, in which all answer
	if nightly() {
		n, settle, watched = 60, 3*time.Minute, 2*time.Minute // in which Go collects garbage once, however little there is
	}
	w := newWorld(t)
	w.ctx = t.Context()
	var hosts []*lan.Host
	var narbors []*lan.Process
	began := time.Now()
	for i := range n {
		h, err := w.lan.Add(lan.HostConfig{Name: "m" + strconv.Itoa(i+1), Binds: map[string]string{"opt": programs.dir}})
		w.must(err)
		_, err = h.Run(w.ctx, "nft", `add table inet m; add chain inet m out { type filter hook output priority 0; }; add rule inet m `+
			`out udp dport 5353 counter`)
		w.must(err)
		hosts = append(hosts, h)
	}
	w.introduce(hosts)
	for _, h := range hosts {
		narbors = append(narbors, w.start(h))
	}
	t.Logf("started %d in %s", n, time.Since(began).Round(time.Second))
	began = time.Now()
	w.neighbours(hosts[0], n-1)
	w.neighbours(hosts[n-1], n-1)
	t.Logf("all found after %s", time.Since(began).Round(time.Second/10))
	time.Sleep(settle)
	packets, cpu := w.multicasts(hosts), w.busy(narbors)
	began = time.Now()
	time.Sleep(watched)
	took := time.Since(began)
	used := w.busy(narbors) - cpu
	said := w.multicasts(hosts) - packets
	var most int64
	for _, p := range narbors {
		u, err := p.Usage()
		w.must(err)
		most = max(most, u.RSS)
	}
	share, each := used.Seconds()/took.Seconds(), float64(said)/took.Seconds()/float64(n)
	t.Logf("%d at rest for %s: %.2f %% of a core together, %d MiB at most, %.3f packets a second and machine", n, took.Round(time.Second),
		100*share, most>>20, each)
	limit := idleShare * float64(n) / 60
	if !nightly() {
		limit *= idleSlack
	}
	if share > limit {
		t.Errorf("%d narbors at rest take %.2f %% of a core, want %.2f %%", n, 100*share, 100*limit)
	}
	if most > idleMemory {
		t.Errorf("a narbor at rest takes %d MiB, want %d", most>>20, idleMemory>>20)
	}
	if each > idlePackets {
		t.Errorf("a narbor at rest sends %.2f packets of multicast DNS a second, want %.0f", each, idlePackets)
	}
}

// introduce gives each machine the link-layer addresses of the others. All namespaces share the kernel's table of
// these, which has room for 1,024 by default; permanent entries do not count.
func (w world) introduce(hosts []*lan.Host) {
	w.Helper()
	var batch strings.Builder
	for _, h := range hosts {
		mac, err := h.ReadFile("/sys/class/net/eth0/address")
		w.must(err)
		for _, addr := range []string{h.Addr4.String(), h.Addr6.String()} {
			fmt.Fprintf(&batch, "neigh replace %s lladdr %s dev eth0 nud permanent\n", addr, strings.TrimSpace(mac))
		}
	}
	for _, h := range hosts {
		w.must(h.WriteFile("/tmp/neigh", batch.String()))
		_, err := h.Run(w.ctx, "ip", "-batch", "/tmp/neigh")
		w.must(err)
	}
}

// busy returns the processor time of processes, to the nanosecond: in ticks of 10 ms, what many take that are at rest
// would be rounding.
func (w world) busy(ps []*lan.Process) (sum time.Duration) {
	w.Helper()
	for _, p := range ps {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", p.Pid()))
		w.must(err)
		if len(tasks) == 0 {
			w.Fatalf("/proc/%d/task has no schedstat", p.Pid())
		}
		for _, name := range tasks {
			text, err := os.ReadFile(name)
			if err != nil {
				continue // a thread that has ended
			}
			ns, err := strconv.ParseInt(strings.Fields(string(text))[0], 10, 64)
			w.must(err)
			sum += time.Duration(ns)
		}
	}
	return sum
}

var counted = regexp.MustCompile(`counter packets (\d+)`)

// multicasts counts the packets of multicast DNS that machines have sent.
func (w world) multicasts(hosts []*lan.Host) (sum int) {
	w.Helper()
	for _, h := range hosts {
		out, err := h.Run(w.ctx, "nft", "list", "table", "inet", "m")
		w.must(err)
		m := counted.FindStringSubmatch(out)
		if m == nil {
			w.Fatalf("%s: nft counts nothing: %s", h.Name, out)
		}
		n, _ := strconv.Atoi(m[1])
		sum += n
	}
	return sum
}
