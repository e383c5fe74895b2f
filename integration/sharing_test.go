package integration_test

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"narbor/integration/corpus"
	"narbor/integration/lan"
	"narbor/store"
)

// A store holds paths of every provenance. Only those that an upstream has signed leave it.
func TestOnlyWhatAnUpstreamSignedIsServed(t *testing.T) {
	w := newWorld(t)
	c := w.corpus(corpus.Small())
	// Alice signs what she builds, and both machines trust her key: it is private all the same. No user but root may
	// read the secret key, and narbor does not need it.
	alice := w.host(lan.HostConfig{Name: "alice", Nix: c.Nix}, "substituters =", "experimental-features = nix-command")
	_, err := alice.Run(w.ctx, "sh", "-c", "umask 077; nix key generate-secret --key-name alice-1 > /etc/nix/secret")
	w.must(err)
	public, err := alice.Run(w.ctx, "sh", "-c", "nix key convert-secret-to-public < /etc/nix/secret")
	w.must(err)
	unsigned := w.various(alice, c)
	// Bob trusts every key that has signed a path here, so that only Alice's rules can keep a path private.
	others, err := alice.Run(w.ctx, "sh", "-ec", "for k in mallory impostor; do nix key convert-secret-to-public < /tmp/$k; echo; done")
	w.must(err)
	bob := w.host(lan.HostConfig{Name: "bob"}, "substituters = "+lan.Substituter,
		"extra-trusted-public-keys = "+public+" "+strings.Join(strings.Fields(others), " "))
	w.must(alice.Configure("extra-trusted-public-keys = "+public, "secret-key-files = /etc/nix/secret"))
	maps.Copy(unsigned, w.own(alice))
	signed := w.resigned(alice, unsigned)
	for _, info := range c.Infos {
		signed[info.Path.String()] = "corpus"
	}
	w.start(alice)
	w.start(bob)
	w.neighbours(bob, 1)
	w.probe(alice, signed, unsigned)
	w.probe(bob, signed, unsigned)

	// Real Nix agrees: it finds the one kind, and none of the other.
	w.realise(bob, slices.Collect(maps.Keys(signed))...)
	args := append([]string{"--realise", "--keep-going"}, slices.Collect(maps.Keys(unsigned))...)
	if _, err := bob.Run(w.ctx, "nix-store", args...); err == nil {
		t.Error("nix-store --realise got all paths that must not be served")
	}
	for p, kind := range unsigned {
		if bob.IsValid(w.ctx, p) {
			t.Errorf("%s (%s) has arrived", p, kind)
		}
	}
	w.must(bob.Verify(w.ctx))
	w.must(alice.Verify(w.ctx))
}

// made runs a shell script on the host and returns the store paths that it prints, as keys, all of one kind.
func (w world) made(h *lan.Host, kind, script string) map[string]string {
	w.Helper()
	out, err := h.Run(w.ctx, "sh", "-ec", script)
	w.must(err)
	paths := map[string]string{}
	for p := range strings.FieldsSeq(out) {
		if _, err := store.ParsePath(p); err != nil {
			w.Fatalf("%s: %v", kind, err)
		}
		paths[p] = kind
	}
	if len(paths) == 0 {
		w.Fatalf("%s: the script made no path", kind)
	}
	return paths
}

// various makes paths that no trusted key has signed.
func (w world) various(h *lan.Host, c *corpus.Corpus) map[string]string {
	w.Helper()
	const derivation = `derivation { name = "%s"; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" "echo %s > $out" ]; }`
	paths := map[string]string{}
	for kind, script := range map[string]string{
		"unsigned":   `nix-build --no-out-link --expr '` + fmt.Sprintf(derivation, "unsigned", "unsigned") + `'`,
		"derivation": `nix-instantiate --expr '` + fmt.Sprintf(derivation, "never-built", "x") + `'`,
		"text":       `nix-instantiate --eval --read-write-mode --expr 'builtins.toFile "text" "private text"' | tr -d '"'`,
		"recursive":  `mkdir -p /tmp/source; echo private > /tmp/source/file; nix-store --add /tmp/source`,
		"flat":       `echo private > /tmp/flat; nix-store --add-fixed sha256 /tmp/flat`,
		"sha1":       `echo private > /tmp/sha1; nix-store --add-fixed sha1 /tmp/sha1`,
		"unknown key": `p=$(nix-build --no-out-link --expr '` + fmt.Sprintf(derivation, "unknown-key", "unknown") + `')
			nix key generate-secret --key-name mallory-1 > /tmp/mallory; nix store sign -k /tmp/mallory $p; echo $p`,
		"right name, other key": `p=$(nix-build --no-out-link --expr '` + fmt.Sprintf(derivation, "wrong-key", "wrong") + `')
			nix key generate-secret --key-name ` + corpus.KeyName + ` > /tmp/impostor; nix store sign -k /tmp/impostor $p; echo $p`,
	} {
		maps.Copy(paths, w.made(h, kind, script))
	}
	maps.Copy(paths, w.forged(h, c))
	return paths
}

// forged adds a path that bears an upstream's true signature, of another path. Nix keeps it if it is told not to look.
func (w world) forged(h *lan.Host, c *corpus.Corpus) map[string]string {
	w.Helper()
	source := c.Infos[0]
	text, err := h.Run(w.ctx, "sh", "-ec",
		`echo forged > /tmp/forged; nix-store --dump /tmp/forged | sha256sum | cut -c1-64; nix-store --dump /tmp/forged | wc -c`)
	w.must(err)
	fields := strings.Fields(text)
	info := store.Info{Signatures: source.Signatures}
	info.Path, err = store.ParsePathName("00000000000000000000000000000000-forged")
	w.must(err)
	info.NarHash, err = store.ParseHash(fields[0])
	w.must(err)
	_, err = fmt.Sscan(fields[1], &info.NarSize)
	w.must(err)
	cache := "/tmp/forgery"
	narinfo := info.String() + "URL: forged.nar\nCompression: none\n"
	w.must(h.WriteFile(filepath.Join(cache, string(info.Path.HashPart())+".narinfo"), narinfo))
	w.must(h.WriteFile(filepath.Join(cache, "nix-cache-info"), "StoreDir: /nix/store\n"))
	return w.made(h, "signature of another path", `nix-store --dump /tmp/forged > `+cache+`/forged.nar
		nix copy --no-check-sigs --from file://`+cache+` `+info.Path.String()+`; echo `+info.Path.String())
}

// own makes a path that the host's own key signs.
func (w world) own(h *lan.Host) map[string]string {
	w.Helper()
	paths := w.made(h, "own key", `NIX_REMOTE= nix-build --no-out-link --expr 'derivation { name = "own"; system = builtins.currentSystem;
		builder = "/bin/sh"; args = [ "-c" "echo own > $out" ]; }'`)
	for p := range paths {
		if out, err := h.Run(w.ctx, "nix", "path-info", "--sigs", p); err != nil || !strings.Contains(out, "alice-1:") {
			w.Fatalf("%s is not signed by its builder: %s, %v", p, out, err)
		}
	}
	return paths
}

// resigned makes paths that an upstream has signed beside, or in spite of, what else they are. Those that stay here
// nevertheless are added to unsigned.
func (w world) resigned(h *lan.Host, unsigned map[string]string) map[string]string {
	w.Helper()
	w.must(h.WriteFile("/tmp/upstream", corpus.SecretKey()))
	maps.Copy(unsigned, w.made(h, "own build that upstream signed, too", `p=$(NIX_REMOTE= nix-build --no-out-link --expr 'derivation {
		name = "both"; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" "echo both > $out" ]; }')
		nix store sign -k /tmp/upstream $p; echo $p`))
	return w.made(h, "content-addressed path that upstream signed", `mkdir -p /tmp/public; echo public > /tmp/public/file
		p=$(nix-store --add /tmp/public); nix store sign -k /tmp/upstream $p; echo $p`)
}

// probe asks the host's narbor for each path, and for its archive under the URL that it would have.
func (w world) probe(h *lan.Host, signed, unsigned map[string]string) {
	w.Helper()
	for want, kinds := range map[string]map[string]string{"200": signed, "404": unsigned} {
		if len(kinds) == 0 {
			continue
		}
		paths := slices.Sorted(maps.Keys(kinds))
		hashes, err := w.lan.Hosts()[0].Hashes(w.ctx, paths...)
		w.must(err)
		var urls []string
		for i, p := range paths {
			path, err := store.ParsePath(p)
			w.must(err)
			url := lan.Substituter + "/" + string(path.HashPart())
			nar := lan.Substituter + "/nar/" + string(path.HashPart()) + "-" + strings.TrimPrefix(hashes[i], "sha256:") + ".nar"
			urls = append(urls, url+".narinfo", nar)
		}
		codes, err := h.Codes(w.ctx, urls...)
		w.must(err)
		for i, code := range codes {
			if code != want {
				w.Errorf("%s: GET %s (%s, %s) is %s, want %s", h.Name, urls[i], paths[i/2], kinds[paths[i/2]], code, want)
			}
		}
	}
}
