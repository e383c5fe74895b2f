package integration_test

import (
	"fmt"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"narbor/integration/lan"
)

// remoteScript is what Nix runs in the place of ssh for the builder "localhost": the pipes lead to another host.
const remoteScript = "#!/bin/sh\ncat /srv/wire/answers & exec cat > /srv/wire/requests\n"

// A remoteBuilder lets one host build on another by Nix's own protocol, over two pipes.
type remoteBuilder struct {
	circleLAN
	asker, builder *lan.Host
	system         string
}

// builds makes the asker's Nix build on the builder, and returns the path.
func (r remoteBuilder) builds(name string) string {
	r.Helper()
	server, err := r.builder.StartDaemon("sh", "-c", "NIX_REMOTE= exec nix-store --serve --write --option sandbox false "+
		"< /srv/wire/requests > /srv/wire/answers")
	r.must(err)
	path := r.shell(r.asker, fmt.Sprintf(`NIX_REMOTE= nix-build --no-out-link --max-jobs 0 --option substituters "" \
		--option builders "ssh://localhost?remote-program=/tmp/remote %[2]s" --expr 'derivation { name = "%[1]s"; system = "%[2]s";
		builder = "/bin/sh"; args = [ "-c" "read x < /proc/sys/kernel/hostname; echo $x > $out" ]; }'`, name, r.system))
	<-server.Done()
	if text := r.shell(r.asker, "cat "+path); text != r.builder.Name {
		r.Fatalf("%s was built on %s, want %s", path, text, r.builder.Name)
	}
	return path
}

// signatures returns the names of the keys that have signed a path, by the host's database.
func (c circleLAN) signatures(h *lan.Host, path string) string {
	c.Helper()
	return c.shell(h, `nix path-info --sigs `+path+` | grep -o '[a-z]*-[0-9]:' || true`)
}

// The output of a remote builder is ultimate there, and a copy on the machine that asked for it. Nix signs on the builder
// alone: if that has the circle's key, both machines share the path with members, and else neither does.
func TestCircleSharesWhatARemoteBuilderHasSigned(t *testing.T) {
	nixes := nixes(t) // the newest: 2.8 starts the hook that builds elsewhere outside the host
	wire := t.TempDir()
	for _, name := range []string{"requests", "answers"} {
		if err := syscall.Mkfifo(filepath.Join(wire, name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := circleOnly(newWorld(t), lan.HostConfig{System: nixes[len(nixes)-1].System, Binds: map[string]string{"srv/wire": wire}},
		"bob", "carol")
	bob, carol := c.members[0], c.members[1]
	system := c.shell(c.builder, "nix eval --impure --raw --expr builtins.currentSystem")
	for _, h := range []*lan.Host{c.builder, bob} {
		c.must(h.WriteFile("/tmp/remote", remoteScript))
		c.shell(h, "chmod 755 /tmp/remote")
	}

	signed := remoteBuilder{c, bob, c.builder, system}.builds("signed")
	unsigned := remoteBuilder{c, c.builder, bob, system}.builds("unsigned") // by the member that has no secret key
	for _, want := range []struct {
		h          *lan.Host
		path       string
		ultimate   bool
		signatures string
	}{
		{c.builder, signed, true, "home-1:"},
		{bob, signed, false, "home-1:"},
		{bob, unsigned, true, ""},
		{c.builder, unsigned, false, ""},
	} {
		if ultimate, signatures := c.ultimate(want.h, want.path), c.signatures(want.h, want.path); ultimate != want.ultimate ||
			signatures != want.signatures {
			t.Errorf("%s: %s: ultimate is %t and the signatures are %q, want %t and %q", want.h.Name, want.path, ultimate, signatures,
				want.ultimate, want.signatures)
		}
	}
	c.answers(carol, "200", signed)
	c.answers(carol, "404", unsigned)

	// A signature on the machine that asked for the build lets that one share it.
	c.shell(c.builder, "NIX_REMOTE= nix store sign --key-file /etc/nix/home-1.sec "+unsigned)
	c.answers(carol, "200", unsigned)
	c.gets(carol, unsigned, c.hash(c.builder, unsigned))

	c.must(c.running[c.builder].Terminate(15 * time.Second)) // so that carol gets the copy of the machine that asked
	c.gets(carol, signed, c.hash(bob, signed))
	outsider := c.add("outsider", lan.HostConfig{}, lan.Substituter)
	c.must(outsider.Configure(c.shell(c.builder, "grep home-1: /etc/nix/nix.conf")))
	c.restart(outsider)
	c.until(outsider, "met the members", func(s lan.Status) bool { return len(s.OtherGroup) >= 2 })
	c.answers(outsider, "404", signed)
}
