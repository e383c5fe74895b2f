package integration_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"narbor/integration/lan"
)

const (
	swarmMembers = 6
	closurePaths = 4       // that the closure's top refers to
	pathBytes    = 4 << 20 // of each: random, so that the wire has as many
)

// buildClosure builds and signs a path that refers to some large ones, and returns it with its closure and the
// NarHashes.
func (c circleLAN) buildClosure() (top string, paths, hashes []string) {
	c.Helper()
	top = c.shell(c.builder, fmt.Sprintf(`NIX_REMOTE= nix-build --no-out-link --option sandbox false --expr '
		let build = name: script: parts: derivation { inherit name parts; system = builtins.currentSystem; builder = "/bin/sh";
			args = [ "-c" script ]; };
		in build "top" "echo $parts > $out" (builtins.genList (i:
			build "part-${toString i}" "/usr/bin/head -c %d /dev/urandom > $out" []) %d)'`, pathBytes, closurePaths))
	paths, err := c.builder.Requisites(c.ctx, top)
	c.must(err)
	if len(paths) != closurePaths+1 {
		c.Fatalf("the closure is %v, want %d paths", paths, closurePaths+1)
	}
	hashes, err = c.builder.Hashes(c.ctx, paths...)
	c.must(err)
	return top, paths, hashes
}

// Six members that fetch one own build at the same time feed each other: the builder sends much less than six closures.
func TestCircleFeedsEachOther(t *testing.T) {
	var names []string
	for i := range swarmMembers {
		names = append(names, fmt.Sprintf("member%d", i))
	}
	c := circleOnly(newWorld(t), lan.HostConfig{}, names...)
	top, paths, hashes := c.buildClosure()
	c.must(c.builder.Shape(100)) // Mbit/s: slow enough for the members to have blocks before it has sent all

	var g errgroup.Group
	for _, h := range c.members {
		g.Go(func() error { return c.realises(h, "", top) })
	}
	c.must(g.Wait())

	builder := c.status(c.builder)
	var sent, exchanged int64
	for _, nb := range builder.Neighbours {
		sent += nb.BytesSent
	}
	for _, h := range c.members {
		got, err := h.Hashes(c.ctx, paths...)
		c.must(err)
		if !slices.Equal(got, hashes) {
			t.Errorf("%s: %s are %s, want %s", h.Name, strings.Join(paths, " "), got, hashes)
		}
		for _, nb := range c.status(h).Neighbours {
			if nb.ID != builder.PeerID {
				exchanged += nb.BytesReceived
			}
		}
	}
	const closure = closurePaths * pathBytes
	t.Logf("the builder sent %.2f closures, and members gave each other %.2f", float64(sent)/closure, float64(exchanged)/closure)
	if sent < closure {
		t.Errorf("the builder sent %d bytes, want at least the closure's %d: the counters are not of this fetch", sent, closure)
	}
	if sent > swarmMembers*closure/2 {
		t.Errorf("the builder sent %d bytes, want at most half of %d closures of %d", sent, swarmMembers, closure)
	}
	if exchanged < swarmMembers*closure/3 {
		t.Errorf("members gave each other %d bytes, want at least a third of %d closures of %d", exchanged, swarmMembers, closure)
	}
}
