package integration_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"narbor/integration/lan"
)

// warnings returns what a machine's narbor has warned of.
func (p *pair) warnings(i int) (lines []string) {
	p.Helper()
	log, err := p.procs[i].Log()
	p.must(err)
	for line := range strings.Lines(log) {
		if strings.Contains(line, "WARN") || strings.Contains(line, "ERROR") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

// warned checks that the first machine has said once what was the matter, and nothing else; "" is that nothing was.
func (p *pair) warned(what string) {
	p.Helper()
	var lines []string
	for deadline := time.Now().Add(lan.AtMost(20 * time.Second)); ; time.Sleep(50 * time.Millisecond) {
		if lines = p.warnings(0); what == "" || len(lines) > 0 || time.Now().After(deadline) {
			break
		}
	}
	p.Logf("%q", lines)
	if what == "" && len(lines) > 0 || what != "" && (len(lines) != 1 || !strings.Contains(lines[0], what)) {
		p.Errorf("narbor warns of %q, want one line about %q", lines, what)
	}
}

// run is a preparation by a shell script.
func (p *pair) run(script string) {
	p.Helper()
	_, err := p.hosts[0].Run(p.ctx, "sh", "-ec", script)
	p.must(err)
}

func prepared(script string) func(*lan.Host) error {
	return func(h *lan.Host) error {
		_, err := h.Run(context.Background(), "sh", "-ec", script)
		return err
	}
}

// Each of some faults of real machines is present: the machine still fetches and serves, and its log names the fault.
func TestFieldFaults(t *testing.T) {
	for _, c := range []struct {
		name, script string
		args         []string
		during       string // run while it serves
		says         string
	}{
		{name: "state directory is read-only", script: "mount -o remount,ro /var/lib/narbor",
			says: "the state directory cannot be written to"},
		{name: "state directory is lost", during: "rm -rf /var/lib/narbor/*", says: "the state directory was emptied"},
		{name: "resolv.conf is empty", script: ": > /etc/resolv.conf", args: []string{"--peer", "nas.example.org"},
			says: "named peer not reached"},
		{name: "no IPv6", script: "for i in all default lo eth0; do echo 1 > /proc/sys/net/ipv6/conf/$i/disable_ipv6; done",
			says: "this machine has no IPv6"},
		{name: "MTU of 1280", script: "ip link set eth0 mtu 1280"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := newPairWith(t, prepared(c.script), c.args...).meet()
			p.both(time.Now())
			if c.during != "" {
				done := make(chan struct{})
				go func() {
					defer close(done)
					p.run(c.during)
				}()
				p.both(time.Now())
				<-done
			}
			p.warned(c.says)
			took := p.both(time.Now())
			t.Logf("both are served in %v", took)
		})
	}
	t.Run("conntrack is full", func(t *testing.T) {
		t.Parallel()
		// A table that is full lets through what it knows, and drops what begins.
		p := newPairWith(t, prepared(`nft 'add table inet full; add chain inet full in { type filter hook input priority 0; }; add `+
			`chain inet full out { type filter hook output priority 0; }; add rule inet full in tcp dport 6273 ct state new drop; add `+
			`rule inet full out tcp dport 6273 ct state new drop'`))
		p.warned("cannot be reached")
		code, _, err := p.hosts[0].Get(p.ctx, lan.Substituter+"/"+string(p.fresh[0][0].Path.HashPart())+".narinfo")
		if err != nil || code != "404" {
			t.Errorf("the answer is %s, %v, want 404", code, err)
		}
		p.run("nft delete table inet full")
		t.Logf("after there is room, both are served in %v", p.both(time.Now()))
	})
}

// All machines of a LAN restart within a second, as after a power cut.
func TestRestartStorm(t *testing.T) {
	w := newWorld(t)
	const machines = 20
	var hosts []*lan.Host
	for i := range machines {
		h, err := w.lan.Add(lan.HostConfig{Name: fmt.Sprintf("m%d", i), Binds: map[string]string{"opt": programs.dir}})
		w.must(err)
		hosts = append(hosts, h)
	}
	procs := make([]*lan.Process, machines)
	all := func(do func(i int) error) {
		t.Helper()
		errs := make([]error, machines)
		var wg sync.WaitGroup
		for i := range machines {
			wg.Go(func() { errs[i] = do(i) })
		}
		wg.Wait()
		for _, err := range errs {
			w.must(err)
		}
	}
	start := func(i int) (err error) {
		procs[i], err = hosts[i].StartNarbor(narbor, "--min-free", "1MiB")
		return err
	}
	meet := func(i int) error { _, err := hosts[i].WaitNeighbours(w.ctx, narbor, machines-1); return err }
	began := time.Now()
	all(start)
	all(meet)
	t.Logf("%d machines start and see each other after %s", machines, time.Since(began).Round(time.Millisecond))
	all(func(i int) error { return procs[i].Kill() })
	began = time.Now()
	all(start)
	started := time.Since(began)
	all(meet)
	t.Logf("%d machines restart in %s, and see each other after %s", machines, started.Round(time.Millisecond),
		time.Since(began).Round(time.Millisecond))
	doubles := 0
	for i := range hosts {
		s := w.status(hosts[i])
		ids := map[string]bool{}
		for _, nb := range s.Neighbours {
			ids[nb.ID] = true
		}
		doubles += len(s.Neighbours) - len(ids)
	}
	if doubles > 0 {
		t.Errorf("%d neighbours are listed twice", doubles)
	}
}
