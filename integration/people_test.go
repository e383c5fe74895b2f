package integration_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"narbor/integration/corpus"
	"narbor/integration/lan"
)

const (
	ipv6Off = "for i in all default lo eth0; do echo 1 > /proc/sys/net/ipv6/conf/$i/disable_ipv6; done"
	// asNobody runs the following command as narbor's user.
	asNobody = "setpriv --reuid=65534 --regid=65534 --clear-groups "
)

// noIPv6 is a program for perl that runs its arguments as on a kernel without IPv6: socket(AF_INET6, …) fails.
var noIPv6 = fmt.Sprintf(`my $f = join "", map { pack "SCCL", @$_ }
	[0x20, 0, 0, 0], [0x15, 0, 3, %d], [0x20, 0, 0, 16], [0x15, 0, 1, %d], [6, 0, 0, 0x50000 | %d], [6, 0, 0, 0x7fff0000];
my $prog = pack "S x6 P", 6, $f;
syscall(%[4]d, %[5]d, 1, 0, 0, 0) == 0 && syscall(%[4]d, %[6]d, 2, $prog) == 0 or die $!;
exec @ARGV;`, unix.SYS_SOCKET, unix.AF_INET6, int(unix.EAFNOSUPPORT), unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, unix.PR_SET_SECCOMP)

// Where there is no IPv6, narbor started by hand is asked by IPv4, finds its neighbours, and the doctor finds nothing
// wrong with that.
func TestWithoutIPv6(t *testing.T) {
	for _, c := range []struct {
		name, script string
		run          []string // what runs narbor
		most         int      // lines of the log
	}{
		{"switched off", ipv6Off, nil, 1},
		{"not in the kernel", ":", []string{"perl", "-e", noIPv6}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			corpus := w.corpus(corpus.Small())
			w.sharing("alice", corpus)
			bob := w.host(lan.HostConfig{Name: "bob"}, "substituters = "+lan.Substituter)
			w.shell(bob, c.script+"; touch -d '1 minute ago' /etc/nix/nix.conf")
			run := append(slices.Clone(c.run), narbor)
			p, err := bob.StartHelper(run[0], append(run[1:], "run")...)
			w.must(err)
			w.eventually(func() bool { s, err := bob.Status(w.ctx, narbor); return err == nil && len(s.Neighbours) == 1 })
			w.realise(bob, corpus.Top.String())
			w.whole(bob, corpus, corpus.Top.String())
			text, err := p.Log()
			w.must(err)
			if !strings.Contains(text, "for Nix     http://127.0.0.1:6272\n") || strings.Count(text, "WARN") > c.most ||
				strings.Contains(text, "ERROR") {
				t.Errorf("the log is\n%s\nwant 127.0.0.1 alone, and %d warnings at most", text, c.most)
			}
			for _, check := range []string{"running", "nix", "probe", "firewall", "network", "multicast", "neighbours", "isolation",
				"ports"} {
				out, _ := bob.Run(w.ctx, run[0], append(run[1:], "doctor", "--json", check)...) // it fails if it finds something
				if strings.Contains(out, `"error"`) || strings.Contains(out, `"warning"`) {
					t.Errorf("doctor %s says\n%s", check, out)
				}
			}
		})
	}
}

// Root does not find a narbor that a user has started by hand, but sees that there is one.
func TestNarborOfAnotherUser(t *testing.T) {
	w := newWorld(t)
	h, err := w.lan.Add(lan.HostConfig{Name: "desk", Binds: map[string]string{"opt": programs.dir}})
	w.must(err)
	p, err := h.StartHelper(narbor, "run", "--socket", "/tmp/other.sock")
	w.must(err)
	w.eventually(func() bool { return w.doctor(h, "running", "--socket", "/tmp/other.sock").Severity == "ok" })
	w.wrong(h, "error", "running", "narbor runs as process")
	w.must(p.Terminate(30 * time.Second))
	w.wrong(h, "error", "running", "narbor is not running")
}

// The Nix of a single user has no daemon: the owner of /nix runs narbor too, which shares and is asked as everywhere.
func TestNixOfASingleUser(t *testing.T) {
	w := newWorld(t)
	c := w.corpus(corpus.Small())
	w.sharing("nas", c)
	single := func(name, nix string) *lan.Host {
		h, err := w.lan.Add(lan.HostConfig{Name: name, Nix: nix, Binds: map[string]string{"opt": programs.dir}})
		w.must(err)
		w.must(h.Configure("extra-trusted-public-keys = "+corpus.PublicKey(), "substituters = "+lan.Substituter))
		w.shell(h, "mkdir -p /nix/var/nix/db && touch -d '1 minute ago' /etc/nix/nix.conf && chown -R 65534:65534 /nix")
		return h
	}
	desk := single("desk", "")
	w.start(desk)
	w.neighbours(desk, 1)
	w.shell(desk, "HOME=/tmp NIX_REMOTE= "+asNobody+"nix-store --realise "+c.Top.String())
	w.until(desk, "served all archives", func(s lan.Status) bool { return s.Nix.NarsServed >= int64(len(c.Infos)) })
	w.eventually(func() bool { return strings.Contains(w.shell(desk, narbor+" share"), "/nix/store") })
	laptop, _ := w.fetching("laptop")
	w.neighbours(laptop, 2)
	w.shell(desk, "touch /etc/nix/nix.conf") // later than what narbor has started to read the store
	w.well(desk, "nix")
	w.realise(laptop, c.Top.String())
	w.whole(laptop, c, c.Top.String())
	if out := w.shell(desk, narbor+" why "+c.Top.String()); !strings.Contains(out, "valid in /nix/store") ||
		!strings.Contains(out, "shared     yes") {
		t.Errorf("narbor why says\n%s", out)
	}
}

// A Nix that does not talk to narbor's user is not shared; status, doctor and why say so, until it does.
func TestNixThatRefuses(t *testing.T) {
	w := newWorld(t)
	c := w.corpus(corpus.Small())
	for _, r := range []struct{ name, script, mend string }{
		{"by its socket", "chmod 700 /nix/var/nix/daemon-socket", "chmod 755 /nix/var/nix/daemon-socket"},
		{"by having none, and another owner", "for p in /proc/[0-9]*; do [ \"$(cat $p/comm)\" != nix-daemon ] || kill \"${p#/proc/}\"; " +
			"done; rm -f /nix/var/nix/daemon-socket/socket; chmod 700 /nix/var/nix/db", ""},
	} {
		h := w.host(lan.HostConfig{Name: strings.Fields(r.name)[1], Nix: c.Nix}, "substituters = "+lan.Substituter)
		w.shell(h, r.script)
		w.start(h)
		if f := w.wrong(h, "warning", "health", "The Nix store cannot be asked"); f.Code != "store" || f.Fix == "" {
			t.Errorf("%s: doctor finds %+v", r.name, f)
		}
		status, err := h.Run(w.ctx, narbor, "status")
		why, _ := h.Run(w.ctx, narbor, "why", c.Top.String()) // it has no holder
		if err == nil || !strings.Contains(status, "The Nix store cannot be asked") ||
			!strings.Contains(why, "Nix on this machine cannot be asked") {
			t.Errorf("%s: %v\n%s\n%s", r.name, err, status, why)
		}
		if r.mend != "" {
			w.shell(h, r.mend)
			time.Sleep(5 * time.Second) // the next try
			w.well(h, "health")
		}
	}
}
