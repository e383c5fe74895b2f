package integration_test

import (
	"context"
	"strings"
	"testing"
)

// On a machine with systemd, Nix and narbor's program, setup starts narbor and makes Nix ask it. Unsetup removes all of
// it, and the port stays open for as long as Nix may ask.
func TestSetupAndUnsetup(t *testing.T) {
	script := strings.Replace(bootScript, "mount --bind /etc etc",
		"cp -a /etc/. etc; rm -rf etc/nix etc/systemd/system; mkdir -p etc/nix etc/systemd/system nix/var/nix/db opt/new", 1)
	script = strings.Replace(script, "SYSTEMD_UNIT_PATH=/units", "SYSTEMD_UNIT_PATH=/etc/systemd/system:/units", 1)
	s := bootSystemdWith(t, script, func(t *testing.T, units string) { writeTargets(t, units, "") })
	s.await("test.target", "active")
	s.run("sh", "-c", "mv /usr/local/bin/narbor /opt/new/narbor && printf 'substituters = https://cache.example.org\\n' > "+
		"/etc/nix/nix.conf")

	daemon := strings.TrimSpace(s.run("sh", "-c", "nix-daemon --daemon >/dev/null 2>&1 & echo $!")) // which systemd knows nothing of
	s.run("sh", "-c", "cp /etc/nix/nix.conf /tmp/mine && echo '# Ansible managed' >> /etc/nix/nix.conf")
	if out, err := s.command(t.Context(), "/opt/new/narbor", "setup").CombinedOutput(); err == nil ||
		!strings.Contains(string(out), "Ansible managed") {
		t.Errorf("setup beside a nix.conf of another tool = %v\n%s", err, out)
	}
	if got := s.run("sh", "-c", "ls /usr/local/bin; cp /tmp/mine /etc/nix/nix.conf"); strings.Contains(got, "narbor") {
		t.Errorf("setup that refuses has installed %s", got)
	}
	out := s.run("/opt/new/narbor", "setup")
	t.Logf("narbor setup:\n%s", out)
	for _, want := range []string{"copied to /usr/local/bin/narbor", "started, now and at each boot", "added to /etc/nix/nix.conf",
		"nix-daemon"} {
		if !strings.Contains(out, want) {
			t.Errorf("setup does not say %q:\n%s", want, out)
		}
	}
	s.await("narbor.service", "active")
	s.allowsVsock(t, false)
	if got := s.run("curl", "-s", "http://127.0.0.1:6272/nix-cache-info"); !strings.Contains(got, "StoreDir: /nix/store\n") {
		t.Errorf("/nix-cache-info is %q", got)
	}
	conf := s.run("cat", "/etc/nix/nix.conf")
	if want := "substituters = https://cache.example.org\nextra-substituters = http://127.0.0.1:6272 # narbor\n"; conf != want {
		t.Errorf("nix.conf is %q, want %q", conf, want)
	}
	if got, _ := s.command(t.Context(), "narbor", "doctor", "nix").CombinedOutput(); !strings.Contains(string(got), "/etc/nix/nix.conf:2") {
		t.Errorf("doctor nix:\n%s", got)
	}
	// Again changes nothing but what runs; and the machine has vsock now.
	s.run("sh", "-c", giveVsock)
	if out := s.run("/opt/new/narbor", "setup"); !strings.Contains(out, "Nix asks narbor already") ||
		s.run("cat", "/etc/nix/nix.conf") != conf {
		t.Errorf("setup again:\n%s", out)
	}
	s.await("narbor.service", "active")
	s.allowsVsock(t, true)
	s.run("systemctl", "enable", "--now", s.refreshTimer(t, "disabled"))
	s.run("/opt/new/narbor", "setup")
	s.refreshTimer(t, "enabled")
	s.unsetup(t, daemon)
}

func (s systemd) unsetup(t *testing.T, daemon string) {
	// Another line names narbor too: narbor must keep running.
	s.run("sh", "-c", "cp /etc/nix/nix.conf /tmp/conf && echo 'extra-substituters = http://127.0.0.1:6272 https://other.example' >> "+
		"/etc/nix/nix.conf")
	if out, err := s.command(t.Context(), "narbor", "unsetup").CombinedOutput(); err == nil ||
		!strings.Contains(string(out), "/etc/nix/nix.conf:2 still names") {
		t.Errorf("unsetup while Nix is told elsewhere = %v\n%s", err, out)
	}
	s.await("narbor.socket", "active")
	s.run("cp", "/tmp/conf", "/etc/nix/nix.conf")

	// A nix-daemon that has read the line, and cannot be restarted from here, still asks.
	if out, err := s.command(t.Context(), "narbor", "unsetup").CombinedOutput(); err == nil ||
		!strings.Contains(string(out), "nix-daemon still asks narbor") {
		t.Errorf("unsetup beside a nix-daemon that still asks = %v\n%s", err, out)
	}
	s.await("narbor.socket", "active")
	s.run("timeout", "20", "sh", "-c", "kill "+daemon+"; while kill -0 "+daemon+
		" 2>/dev/null; do sleep 0.1; done; cp /tmp/conf /etc/nix/nix.conf")

	// At any time, the port is open if nix.conf names it.
	ctx, stop := context.WithCancel(t.Context())
	refused := make(chan int, 1)
	go func() {
		n := 0
		for ctx.Err() == nil {
			script := "curl -s -m 10 -o /dev/null http://127.0.0.1:6272/nix-cache-info; [ $? != 7 ] || ! grep -q 6272 /etc/nix/nix.conf"
			if err := s.command(ctx, "sh", "-c", script).Run(); err != nil && ctx.Err() == nil {
				n++
			}
		}
		refused <- n
	}()
	out := s.run("narbor", "unsetup")
	stop()
	if n := <-refused; n > 0 {
		t.Errorf("%d times Nix was still told of narbor and would have been refused", n)
	}
	t.Logf("narbor unsetup:\n%s", out)
	took, stopped := strings.Index(out, "took narbor's line out"), strings.Index(out, "stopped")
	if took < 0 || stopped < took {
		t.Errorf("unsetup in the wrong order:\n%s", out)
	}
	if got := s.run("cat", "/etc/nix/nix.conf"); got != "substituters = https://cache.example.org\n" {
		t.Errorf("nix.conf is %q after unsetup", got)
	}
	left := s.run("sh", "-c", "find /usr/local/bin /etc/systemd -name '*narbor*'; "+
		"curl -s -m 5 http://127.0.0.1:6272/ || true")
	if strings.TrimSpace(left) != "" {
		t.Errorf("left behind: %s", left)
	}
}
