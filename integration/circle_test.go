package integration_test

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"narbor/integration/lan"
)

// A circleLAN is a builder, two members and a machine outside. All trust the circle's key; the outsider lacks the secret.
type circleLAN struct {
	world
	builder, bob, carol, outsider *lan.Host
	members                       []*lan.Host // without the builder
	running                       map[*lan.Host]*lan.Process
}

func newCircleLAN(t *testing.T) circleLAN {
	c := circleOnly(newWorld(t), lan.HostConfig{}, "bob", "carol")
	c.bob, c.carol = c.members[0], c.members[1]
	c.outsider = c.add("outsider", lan.HostConfig{}, lan.Substituter)
	c.must(c.outsider.Configure(c.shell(c.builder, "grep home-1: /etc/nix/nix.conf")))
	c.restart(c.outsider)
	return c
}

// circleOnly makes a circle of a builder and members, which all run narbor. Their hosts differ in the name alone.
func circleOnly(w world, cfg lan.HostConfig, members ...string) circleLAN {
	w.Helper()
	c := circleLAN{world: w, running: map[*lan.Host]*lan.Process{}}
	c.builder = c.add("builder", cfg, "")
	for _, name := range members {
		c.members = append(c.members, c.add(name, cfg, lan.Substituter))
	}
	c.circle(c.builder, "init home --write --file /tmp/home.circle")
	c.join("/tmp/home.circle", "", c.members...)
	c.restart(append(c.members, c.builder)...)
	for _, h := range c.members {
		c.neighbours(h, len(c.members))
	}
	return c
}

// add adds a machine that does not run narbor yet.
func (c circleLAN) add(name string, cfg lan.HostConfig, substituters string) *lan.Host {
	c.Helper()
	cfg.Name, cfg.Binds = name, maps.Clone(cfg.Binds)
	return c.host(cfg, "substituters = "+substituters, "experimental-features = nix-command")
}

// circle runs a command as root.
func (c circleLAN) circle(h *lan.Host, args string) string {
	c.Helper()
	return c.shell(h, narbor+" circle "+args+" --state-dir /var/lib/narbor")
}

// join takes the builder's file to others.
func (c circleLAN) join(file, flags string, hosts ...*lan.Host) {
	c.Helper()
	text, err := c.builder.ReadFile(file)
	c.must(err)
	for _, h := range hosts {
		c.must(h.WriteFile(file, text))
		c.shell(h, "chmod 600 "+file)
		c.circle(h, "join --write "+flags+" "+file)
	}
}

func (c circleLAN) restart(hosts ...*lan.Host) {
	c.Helper()
	for _, h := range hosts {
		if p := c.running[h]; p != nil {
			c.must(p.Terminate(15 * time.Second))
		}
		c.running[h] = c.start(h)
	}
}

// build builds on the builder as root, for which Nix reads nix.conf each time, and returns path and NarHash.
func (c circleLAN) build(name string, flags ...string) (path, hash string) {
	c.Helper()
	path = c.shell(c.builder, fmt.Sprintf(`NIX_REMOTE= nix-build --no-out-link %s --option sandbox false --expr 'derivation { name = "%s";
		system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" "read x < /proc/sys/kernel/random/uuid; echo $x > $out" ]; }'`,
		strings.Join(flags, " "), name))
	return path, c.hash(c.builder, path)
}

func (c circleLAN) hash(h *lan.Host, path string) string {
	c.Helper()
	hashes, err := h.Hashes(c.ctx, path)
	c.must(err)
	return hashes[0]
}

// realises lets a member's Nix fetch as root, which reads nix.conf each time.
func (c circleLAN) realises(h *lan.Host, flags, path string) error {
	out, err := h.Run(c.ctx, "sh", "-c", "NIX_REMOTE= nix-store --realise "+flags+" "+path+" 2>&1")
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// gets fails unless a member gets a path with a NarHash.
func (c circleLAN) gets(h *lan.Host, path, hash string) {
	c.Helper()
	c.must(c.realises(h, "", path))
	if got := c.hash(h, path); got != hash {
		c.Errorf("%s: %s is %s, want %s", h.Name, path, got, hash)
	}
}

// answers waits until a host's narbor answers for a path of the builder so.
func (c circleLAN) answers(h *lan.Host, code, path string) {
	c.Helper()
	url := lan.Substituter + "/" + strings.TrimPrefix(path, "/nix/store/")[:32] + ".narinfo"
	c.eventually(func() bool {
		codes, err := h.Codes(c.ctx, url)
		return err == nil && codes[0] == code
	})
}

// One machine builds and signs, and members get that alone. A machine without the secret gets nothing, though it has the key.
func TestCircleSharesOwnBuilds(t *testing.T) {
	c := newCircleLAN(t)
	one, hash := c.build("one")
	c.gets(c.bob, one, hash)
	c.gets(c.carol, one, hash)

	unsigned, _ := c.build("unsigned", `--option secret-key-files ""`)
	drv := c.shell(c.builder, "nix-store --query --deriver "+one)
	for _, path := range []string{unsigned, drv} {
		c.answers(c.bob, "404", path)
	}
	for _, path := range []string{one, unsigned, drv} {
		c.answers(c.outsider, "404", path)
	}
	if err := c.realises(c.outsider, "", one); err == nil {
		t.Error("a machine outside the circle got an own build")
	}

	// A member that has read the old narinfo gets the new content of a path that was deleted and built again.
	again, old := c.build("again")
	c.answers(c.bob, "200", again)
	c.shell(c.builder, "NIX_REMOTE= nix-store --delete "+again)
	c.answers(c.bob, "404", again)
	same, hash := c.build("again")
	if same != again || hash == old {
		t.Fatalf("built again: %s with %s, want %s with another content than %s", same, hash, again, old)
	}
	c.answers(c.bob, "200", again)
	c.gets(c.bob, again, hash)

	// A key that is removed counts at once, at the member and at the builder.
	two, hash := c.build("two")
	for _, h := range []*lan.Host{c.bob, c.builder} {
		c.answers(c.bob, "200", two)
		c.shell(h, "cp /etc/nix/nix.conf /tmp/conf && sed -i /trusted-public-keys.*home-1:/d /etc/nix/nix.conf")
		c.answers(c.bob, "404", two)
		c.shell(h, "cp /tmp/conf /etc/nix/nix.conf")
	}
	c.answers(c.bob, "200", two)
	c.gets(c.bob, two, hash)
}

// After a rotation the machine that did not get the new file is expelled. What the old key has signed is fetched once it is
// signed again, and Nix was made to ask again.
func TestCircleRotationExpels(t *testing.T) {
	c := newCircleLAN(t)
	before, hash := c.build("before")
	c.shell(c.bob, "NIX_REMOTE= nix path-info --store "+lan.Substituter+" "+before) // which Nix remembers for 30 days
	c.circle(c.builder, "rotate --write --file /tmp/next.circle")
	c.join("/tmp/next.circle", "--replace", c.bob)
	c.restart(c.builder, c.bob)
	c.neighbours(c.bob, 1)

	after, hashAfter := c.build("after")
	c.gets(c.bob, after, hashAfter)
	for _, h := range []*lan.Host{c.carol, c.outsider} {
		c.answers(h, "404", after)
		c.answers(h, "404", before)
	}

	c.answers(c.bob, "404", before)
	if err := c.realises(c.bob, "", before); err == nil {
		t.Error("a build that only the old key has signed was fetched")
	}
	c.shell(c.builder, "NIX_REMOTE= nix store sign --key-file /etc/nix/home-2.sec "+before)
	c.answers(c.bob, "200", before)
	if err := c.realises(c.bob, "", before); err == nil {
		t.Error("Nix has forgotten the old narinfo: then nothing has to be said about it")
	}
	c.must(c.realises(c.bob, "--option narinfo-cache-positive-ttl 0", before))
	if got := c.hash(c.bob, before); got != hash {
		t.Errorf("%s is %s, want %s", before, got, hash)
	}

	c.circle(c.bob, "leave --write")
	c.restart(c.bob)
	last, _ := c.build("last")
	c.answers(c.bob, "404", last)
}
