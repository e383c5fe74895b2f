package integration_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"narbor/integration/corpus"
	"narbor/integration/lan"
)

const (
	ipv6Off = "for i in all default lo eth0; do echo 1 > /proc/sys/net/ipv6/conf/$i/disable_ipv6; done"
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
			if !strings.Contains(text, "for Nix     http://127.0.0.1:6272\n") || strings.Count(text, "WARN") > c.most || strings.Contains(text, "ERROR") {
				t.Errorf("the log is\n%s\nwant 127.0.0.1 alone, and %d warnings at most", text, c.most)
			}
			for _, check := range []string{"running", "nix", "probe", "firewall", "network", "multicast", "neighbours", "isolation", "ports"} {
				out, _ := bob.Run(w.ctx, run[0], append(run[1:], "doctor", "--json", check)...) // it fails if it finds something
				if strings.Contains(out, `"error"`) || strings.Contains(out, `"warning"`) {
					t.Errorf("doctor %s says\n%s", check, out)
				}
			}
		})
	}
}
