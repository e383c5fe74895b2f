package integration_test

import (
	"testing"

	"narbor/integration/lan"
)

// Without multicast, an SRV record in the search domain is enough to find a neighbour, and the flag turns that off.
func TestNameServerNamesANeighbour(t *testing.T) {
	w := newWorld(t)
	var hosts []*lan.Host
	for _, name := range []string{"alice", "bob", "carol"} {
		h, err := w.lan.Add(lan.HostConfig{Name: name, Binds: map[string]string{"opt": programs.dir}})
		w.must(err)
		hosts = append(hosts, h)
	}
	alice, bob, carol := hosts[0], hosts[1], hosts[2]
	_, err := alice.StartDaemon("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-hosts", "--no-resolv", "--user=root",
		"--pid-file=", "--local=/home.test/", "--srv-host=_narbor._tcp.home.test,nas.home.test,6273",
		"--address=/nas.home.test/"+alice.Addr4.String())
	w.must(err)
	w.start(alice, "--no-mdns")
	for _, h := range hosts[1:] {
		w.must(h.WriteFile("/etc/resolv.conf", "search home.test\nnameserver "+alice.Addr4.String()+"\n"))
	}
	w.start(carol, "--no-mdns", "--no-dns-sd")
	w.start(bob, "--no-mdns")
	s := w.neighbours(bob, 1)
	if got := s.Neighbours[0].Via; got != "dns-sd" {
		t.Errorf("alice was found by %q, want dns-sd", got)
	}
	if n := len(w.status(carol).Neighbours); n > 0 {
		t.Errorf("carol has %d neighbours, want none", n)
	}
}
