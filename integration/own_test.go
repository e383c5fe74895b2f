package integration_test

import (
	"encoding/json"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"narbor/integration/corpus"
	"narbor/integration/lan"
	"narbor/store"
)

// An ownPath is a path of a machine that builds, with its expected properties.
type ownPath struct {
	kind     string
	script   string // prints the path
	ultimate bool   // in Nix's database
	public   bool   // shared with every neighbour
	member   bool   // shared with members of the group
	circle   bool   // shared with members of the group, too, if the key of the hook is one of --circle-key
	// newer leaves out this computer's Nix: 2.8 starts hooks in the root directory of its mount namespace, and that is
	// not the host's.
	newer bool
}

// ownScripts is what the scripts of ownPaths have in common. B names a derivation of its own for each test; copied
// replaces a path by a copy of it that comes from a binary cache.
const ownScripts = `
build() { name=$1; shift; nix-build --no-out-link "$@" --expr 'derivation { name = "'$name'"; system = builtins.currentSystem;
	builder = "/bin/sh"; args = [ "-c" "echo '$name' > $out" ]; }'; }
sign() { nix store sign --key-file $1 $2; }
copied() { nix copy --no-check-sigs --to file:///tmp/copies $1; nix-store --delete $1 >&2
	nix copy --no-check-sigs --from file:///tmp/copies $1; }
remote() { build $1 --max-jobs 0 \
	--option builders "ssh://localhost?remote-program=$2 $(nix eval --impure --raw --expr builtins.currentSystem)"; }
`

func ownPaths() []ownPath {
	return []ownPath{
		{kind: "own build", script: `build plain`, ultimate: true},
		{kind: "own build, signed by a hook", script: `nix-build --no-out-link /etc/nix/hook.nix --option post-build-hook /etc/nix/hook.sh`,
			ultimate: true, circle: true, newer: true},
		{kind: "own build, signed as by a hook",
			script: `p=$(nix-build --no-out-link /etc/nix/hook.nix); OUT_PATHS=$p /etc/nix/hook.sh; echo $p`, ultimate: true, circle: true},
		{kind: "own build, signed by Nix", script: `NIX_REMOTE= build secret --option secret-key-files /etc/nix/hook.sec`, ultimate: true,
			circle: true},
		{kind: "own build, signed by hand", script: `p=$(build hand); sign /etc/nix/hook.sec $p; echo $p`, ultimate: true, circle: true},
		{kind: "own build, with a public signature", script: `p=$(build both); sign /tmp/upstream $p; echo $p`, ultimate: true},
		{kind: "copy with a public signature, built here again", script: `p=$(build again); sign /tmp/upstream $p; copied $p
			build again --check >&2; echo $p`, ultimate: true},
		{kind: "copy with a public signature", script: `p=$(build public); sign /tmp/upstream $p; copied $p; echo $p`, public: true,
			member: true},
		{kind: "copy of an own build, signed", script: `p=$(build own-copy); sign /etc/nix/hook.sec $p; copied $p; echo $p`, member: true},
		{kind: "copy of an own build, not signed", script: `p=$(build bare-copy); copied $p; echo $p`},
		{kind: "build of a remote builder", script: `remote remote /srv/serve`, newer: true},
		{kind: "build of a remote builder that signs", script: `remote remote-signed /srv/serve-signed`, member: true, newer: true},
		{kind: "derivation with a public signature", script: `p=$(nix-instantiate --expr 'derivation { name = "signed";
			system = "x"; builder = "x"; }'); nix store sign --derivation --key-file /tmp/upstream $p; echo $p`},
	}
}

// builderScript is the remote builder's program: a Nix with another /nix. Nix uses no ssh for a builder that is called
// localhost. The mount program is this computer's: newer Debian suites have it in a package that hosts lack.
const builderScript = `#!/bin/sh
mkdir -p /tmp/builder/nix/store
exec unshare -m sh -c '/srv/tools/mount --bind /tmp/builder/nix /nix &&
	NIX_REMOTE= exec nix-store --option sandbox false --option build-users-group "" EXTRA "$@"' sh "$@"
`

// builds makes a machine that builds, and all of the ownPaths on it.
func (w world) builds(name string, nix lan.Nix, extra ...string) (h *lan.Host, paths map[string]ownPath) {
	w.Helper()
	h = w.host(lan.HostConfig{Name: name, System: nix.System, Binds: map[string]string{"srv/tools": "/usr/bin"}}, "substituters =",
		"experimental-features = nix-command")
	for file, from := range map[string]string{"/etc/nix/hook.sh": "testdata/own-build-hook.sh",
		"/etc/nix/hook.nix": "testdata/own-build-signed-by-hook.nix"} {
		text, err := os.ReadFile(from)
		w.must(err)
		w.must(h.WriteFile(file, string(text)))
	}
	w.must(h.WriteFile("/tmp/upstream", corpus.SecretKey()))
	w.must(h.WriteFile("/srv/serve", strings.Replace(builderScript, "EXTRA", `--option secret-key-files ""`, 1)))
	w.must(h.WriteFile("/srv/serve-signed", strings.Replace(builderScript, "EXTRA", "--option secret-key-files /etc/nix/hook.sec", 1)))
	public, err := h.Run(w.ctx, "sh", "-ec", `umask 077; nix key generate-secret --key-name own-1 > /etc/nix/hook.sec
		chmod 755 /etc/nix/hook.sh /srv/serve /srv/serve-signed; nix key convert-secret-to-public < /etc/nix/hook.sec`)
	w.must(err)
	w.must(h.Configure("extra-trusted-public-keys = "+public, "secret-key-files = /etc/nix/hook.sec"))
	w.must(h.Configure(extra...))
	paths = map[string]ownPath{}
	for _, o := range ownPaths() {
		if o.newer && nix.System == "" {
			continue
		}
		out, err := h.Run(w.ctx, "sh", "-ec", ownScripts+o.script)
		if err != nil {
			w.Fatalf("%s: %v", o.kind, err)
		}
		lines := strings.Fields(out)
		p, err := store.ParsePath(lines[len(lines)-1])
		w.must(err)
		paths[p.String()] = o
		if got := w.ultimate(h, p.String()); got != o.ultimate {
			w.Errorf("Nix %s, %s: ultimate is %t in the database, want %t", nix.Version, o.kind, got, o.ultimate)
		}
	}
	return h, paths
}

// ultimate reports whether the host's Nix database marks a path as ultimate, which is built there.
func (w world) ultimate(h *lan.Host, path string) bool {
	w.Helper()
	out, err := h.Run(w.ctx, "nix", "path-info", "--json", path)
	w.must(err)
	var list []struct{ Ultimate bool }
	var byPath map[string]struct{ Ultimate bool } // since 2.19
	if json.Unmarshal([]byte(out), &list) == nil {
		return list[0].Ultimate
	}
	w.must(json.Unmarshal([]byte(out), &byPath))
	for _, info := range byPath {
		return info.Ultimate
	}
	w.Fatalf("nix path-info --json: %s", out)
	return false
}

// kinds sorts paths by whether they are shared.
func kinds(paths map[string]ownPath, shared func(ownPath) bool) (yes, no map[string]string) {
	yes, no = map[string]string{}, map[string]string{}
	for p, o := range paths {
		if shared(o) {
			yes[p] = o.kind
		} else {
			no[p] = o.kind
		}
	}
	return yes, no
}

// A machine does not share its own builds, with any signature. It shares a copy with a private key's signature only
// with members of its group, and then also its own builds that a key of --circle-key has signed.
func TestSignedOwnBuildIsNotShared(t *testing.T) {
	for _, nix := range nixes(t) {
		t.Run(nix.Version, func(t *testing.T) {
			w := newWorld(t)
			h, paths := w.builds("builder", nix)
			public, others := kinds(paths, func(o ownPath) bool { return o.public })
			p := w.start(h)
			trusted, err := h.Run(w.ctx, "sh", "-c", "nix key convert-secret-to-public < /etc/nix/hook.sec")
			w.must(err)
			bob := w.host(lan.HostConfig{Name: "bob"}, "substituters = "+lan.Substituter, "extra-trusted-public-keys = "+trusted)
			q := w.start(bob)
			w.neighbours(bob, 1)
			w.probe(h, public, others)
			w.probe(bob, public, others)

			w.must(p.Terminate(15 * time.Second))
			w.must(q.Terminate(15 * time.Second))
			const secret = "/tmp/group"
			var inGroup *lan.Process
			for _, host := range []*lan.Host{bob, h} {
				w.must(host.WriteFile(secret, strings.Repeat("a group's secret ", 3)))
				_, err := host.Run(w.ctx, "sh", "-c", "chmod 400 "+secret+" && chown 65534 "+secret)
				w.must(err)
				inGroup = w.start(host, "--group-secret-file", secret)
			}
			w.neighbours(bob, 1)
			members, others := kinds(paths, func(o ownPath) bool { return o.member })
			w.probe(bob, members, others)
			w.realise(bob, slices.Collect(maps.Keys(members))...)

			w.must(inGroup.Terminate(15 * time.Second))
			w.start(h, "--group-secret-file", secret, "--circle-key", "own-1")
			w.neighbours(bob, 1)
			members, others = kinds(paths, func(o ownPath) bool { return o.member || o.circle })
			w.probe(bob, members, others)
			w.realise(bob, slices.Collect(maps.Keys(members))...)
			stranger := w.host(lan.HostConfig{Name: "stranger"}, "substituters = "+lan.Substituter, "extra-trusted-public-keys = "+trusted)
			w.start(stranger)
			_, none := kinds(paths, func(ownPath) bool { return false })
			w.probe(stranger, nil, none)
		})
	}
}
