package integration_test

import (
	"os/exec"
	"strings"
	"testing"
	"time"

	"narbor/integration/lan"
)

// resolvedConf has systemd-resolved answer and ask by multicast DNS, too.
const resolvedConf = "[Resolve]\nMulticastDNS=yes\nLLMNR=no\nDNS=\nFallbackDNS=\nDNSSEC=no\n"

// narbor and systemd-resolved share port 5353, whichever starts first: narbors find each other, programs find the other
// machine by its name, and the doctor names systemd-resolved.
func TestBesideResolved(t *testing.T) {
	w := newWorld(t)
	dir, err := lan.Unpack(w.ctx, "systemd-resolved")
	if err != nil {
		unable(t, err.Error())
	}
	var hosts []*lan.Host
	for _, name := range []string{"alice", "bob"} {
		h, err := w.lan.Add(lan.HostConfig{Name: name, Binds: map[string]string{"opt": programs.dir, "srv/resolved": dir}})
		w.must(err)
		w.must(h.WriteFile("/etc/systemd/resolved.conf", resolvedConf))
		w.must(h.WriteFile("/etc/resolv.conf", "nameserver 127.0.0.53\n"))
		w.shell(h, "echo systemd-resolve:x:101:101::/:/bin/false >> /etc/passwd; echo systemd-resolve:x:101: >> /etc/group; mkdir -p "+
			"/run/systemd/resolve && chown 101:101 /run/systemd/resolve")
		hosts = append(hosts, h)
	}
	alice, bob := hosts[0], hosts[1]
	resolved := func(h *lan.Host) {
		w.systemBus(h)
		_, err := h.StartDaemon("/srv/resolved/lib/systemd/systemd-resolved")
		w.must(err)
		w.await(h, "systemd-resolved listens to resolvectl", func() bool { // multicast DNS is off on a link by default
			_, err := h.Run(w.ctx, "/srv/resolved/usr/bin/resolvectl", "mdns", "eth0", "yes")
			return err == nil
		})
		w.await(h, "systemd-resolve has port 5353", func() bool { return strings.Contains(w.shell(h, "cat /proc/net/udp"), ":14E9 ") })
	}
	resolved(alice)
	w.start(alice)
	w.start(bob)
	resolved(bob)

	w.neighbours(alice, 1)
	w.neighbours(bob, 1)
	for _, h := range hosts {
		w.wrong(h, "info", "ports", "systemd-resolve")
		w.well(h, "multicast")
	}
	for h, other := range map[*lan.Host]*lan.Host{alice: bob, bob: alice} {
		var got string
		w.await(h, other.Name+".local has its address", func() bool {
			got = w.shell(h, "getent ahostsv4 "+other.Name+".local || true")
			return strings.Contains(got, other.Addr4.String())
		})
		t.Logf("%s: %s", h.Name, strings.Join(strings.Fields(got)[:2], " "))
	}
}

// busConf allows every user of the bus everything.
const busConf = `<busconfig><type>system</type><listen>unix:path=/run/dbus/system_bus_socket</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*"/>
<allow receive_type="method_call"/><allow receive_type="method_return"/><allow receive_type="error"/>
<allow receive_type="signal"/><allow send_type="signal"/></policy></busconfig>
`

// systemBus starts D-Bus on a host.
func (w world) systemBus(h *lan.Host) {
	w.Helper()
	if _, err := exec.LookPath("dbus-daemon"); err != nil {
		unable(w.T, err.Error())
	}
	w.must(h.WriteFile("/etc/dbus.conf", busConf))
	w.shell(h, "mkdir -p /run/dbus && ln -s /run /var/run")
	bus, err := h.StartDaemon("dbus-daemon", "--nofork", "--nopidfile", "--print-address", "--config-file=/etc/dbus.conf")
	w.must(err)
	w.await(h, "D-Bus listens", func() bool {
		log, err := bus.Log()
		w.must(err)
		return strings.Contains(log, "unix:path=")
	})
}

// await waits until something is so on a host.
func (w world) await(h *lan.Host, what string, is func() bool) {
	w.Helper()
	for deadline := time.Now().Add(lan.AtMost(30 * time.Second)); !is(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.Fatalf("%s: it is not so that %s", h.Name, what)
		}
	}
}
