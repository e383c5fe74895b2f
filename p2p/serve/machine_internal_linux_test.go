package serve

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"narbor/p2p/p2ptest"
	"narbor/p2p/wire"
)

const machineChildEnv = "NARBOR_TEST_MACHINES"

// The kernel's neighbour table is that of a namespace. It is read by a process there.
func TestAddressesOfOneMachineShareItsBudget(t *testing.T) {
	ns := fmt.Sprintf("nbm%d", os.Getpid())
	ip := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
		}
	}
	p2ptest.NeedNamespaces(t)
	ip("netns", "add", ns)
	t.Cleanup(func() { ip("netns", "del", ns) })
	ip("-n", ns, "link", "add", "eth0", "type", "veth", "peer", "name", "eth1")
	ip("-n", ns, "link", "set", "lo", "up")
	ip("-n", ns, "link", "set", "eth0", "up")
	ip("-n", ns, "addr", "add", "10.62.72.1/24", "dev", "eth0")
	ip("-n", ns, "addr", "add", "fd62:7200::1/64", "dev", "eth0", "nodad")
	for i := range 6 {
		ip("-n", ns, "neigh", "add", fmt.Sprintf("10.62.72.%d", 100+i), "lladdr", "02:00:00:00:00:01", "dev", "eth0")
		ip("-n", ns, "neigh", "add", fmt.Sprintf("10.62.72.%d", 200+i), "lladdr", fmt.Sprintf("02:00:00:00:01:%02d", i), "dev", "eth0")
	}
	ip("-n", ns, "neigh", "add", "fd62:7200::100", "lladdr", "02:00:00:00:00:01", "dev", "eth0")
	ip("-n", ns, "neigh", "add", "fe80::100", "lladdr", "02:00:00:00:00:01", "dev", "eth0")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	child := exec.Command("ip", "netns", "exec", ns, self, "-test.run=^TestMachineChild$", "-test.v")
	child.Env = append(os.Environ(), machineChildEnv+"=1")
	out, err := child.CombinedOutput()
	if t.Logf("%s", out); err != nil {
		t.Errorf("child: %v", err)
	}
}

// TestMachineChild is not a test: it is what the one above runs.
func TestMachineChild(t *testing.T) {
	if os.Getenv(machineChildEnv) == "" {
		return
	}
	g := newTarget(t)
	start, looked := time.Now(), 0
	addrs := []string{"fd62:7200::100", "fe80::100%eth0"}
	for i := range 6 {
		addrs = append(addrs, fmt.Sprintf("10.62.72.%d", 100+i))
	}
	for _, a := range addrs {
		looked += g.probe(a, missShares)
	}
	most := missShares * (missBurst + int((time.Since(start).Minutes()+1)*missesPerMinute))
	t.Logf("one machine with %d addresses asked %d questions in %s, and %d were looked up", len(addrs),
		len(addrs)*missShares*(missBurst/wire.MaxClaims+1)*wire.MaxClaims, time.Since(start), looked)
	if looked > most || looked < missShares*missBurst {
		t.Errorf("one machine had %d paths looked up, want at most %d", looked, most)
	}
	if got := g.probe("10.62.72.200", 1); got < missBurst {
		t.Errorf("another machine had %d looked up, want %d", got, missBurst)
	}
	for i := range 5 {
		looked += g.probe(fmt.Sprintf("10.62.72.%d", 201+i), missShares)
	}
	t.Logf("with 6 machines more %d were looked up, after %s in all", looked, time.Since(start))

	addr := netip.MustParseAddr("10.62.72.100")
	known := g.quotas.machineAt(addr)
	if out, err := exec.Command("ip", "neigh", "del", addr.String(), "dev", "eth0").CombinedOutput(); err != nil {
		t.Fatalf("ip: %v: %s", err, out)
	}
	g.quotas.seen.Add(addr, sighting{known, time.Now().Add(-machineFresh)})
	if got := g.quotas.machineAt(addr); got != known {
		t.Errorf("an address that the kernel has forgotten is of %v, want %v as before", got, known)
	}
}
