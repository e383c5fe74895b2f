package integration_test

import (
	"os/exec"
	"strings"
	"testing"
	"time"

	"narbor/integration/lan"
)

// Port 5353 is shared with Avahi on both machines: narbors find each other, and so do Avahis, which were given the same
// name and quarrel about it.
func TestBesideAvahi(t *testing.T) {
	w := newWorld(t)
	if _, err := exec.LookPath("avahi-daemon"); err != nil {
		unable(t, err.Error())
	}
	conf := "[server]\nhost-name=same\nuse-ipv4=yes\nuse-ipv6=yes\nenable-dbus=no\n[publish]\npublish-workstation=yes\n"
	var hosts []*lan.Host
	var avahis []*lan.Process
	var start time.Time
	for _, name := range []string{"alice", "bob"} {
		h, err := w.lan.Add(lan.HostConfig{Name: name, Binds: map[string]string{"opt": programs.dir}})
		w.must(err)
		w.must(h.WriteFile("/etc/avahi/avahi-daemon.conf", conf))
		_, err = h.Run(w.ctx, "sh", "-ec", "echo avahi:x:100:100::/:/bin/false >> /etc/passwd; echo avahi:x:100: >> /etc/group")
		w.must(err)
		start = time.Now()
		if name == "bob" { // here narbor comes first
			w.start(h)
		}
		p, err := h.StartDaemon("avahi-daemon", "--no-drop-root", "--no-chroot", "--no-rlimits", "-f", "/etc/avahi/avahi-daemon.conf")
		w.must(err)
		hosts, avahis = append(hosts, h), append(avahis, p)
		for deadline := time.Now().Add(lan.AtMost(20 * time.Second)); name == "alice"; time.Sleep(20 * time.Millisecond) {
			log, err := p.Log()
			w.must(err)
			if strings.Contains(log, "startup complete") {
				w.start(h)
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("Avahi does not start:\n%s", log)
			}
		}
	}
	s := w.neighbours(hosts[1], 1)
	t.Logf("FIGURE narbors beside Avahi on both machines found each other in %.1f s", time.Since(start).Seconds())
	if s.Neighbours[0].Via != "mdns" && s.Neighbours[0].Via != "inbound" {
		t.Errorf("found by %q", s.Neighbours[0].Via)
	}
	for deadline := time.Now().Add(lan.AtMost(30 * time.Second)); ; time.Sleep(50 * time.Millisecond) {
		var logs string
		for _, p := range avahis {
			log, err := p.Log()
			w.must(err)
			logs += log
		}
		if strings.Contains(logs, "conflict") {
			t.Logf("FIGURE Avahis beside narbor noticed each other within %.1f s", time.Since(start).Seconds())
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the two Avahis have not noticed each other:\n%s", logs)
		}
	}
}
