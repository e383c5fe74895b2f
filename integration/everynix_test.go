package integration_test

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"

	"narbor/integration/lan"
	"narbor/store"
)

// A handmade is a binary cache, in a directory, of archives that no build makes.
type handmade struct {
	world
	dir    string
	secret signature.SecretKey
	public string
}

func newHandmade(w world) handmade {
	w.Helper()
	secret, public, err := signature.GenerateKeypair("handmade-1", rand.Reader)
	w.must(err)
	dir := w.TempDir()
	for d := dir; d != os.TempDir(); d = filepath.Dir(d) {
		w.must(os.Chmod(d, 0o755))
	}
	w.must(os.WriteFile(filepath.Join(dir, "nix-cache-info"), []byte("StoreDir: /nix/store\n"), 0o644))
	return handmade{w, dir, secret, public.String()}
}

// add puts a signed path into the cache.
func (c handmade) add(name string, nar []byte, refs ...store.Path) store.Info {
	c.Helper()
	hash := sha256.Sum256(nar)
	path, err := store.ParsePathName(string(store.HashPartFromBytes([20]byte(hash[:20]))) + "-" + name)
	c.must(err)
	return c.addPath(path, nar, refs...)
}

// addPath puts a signed path into the cache. Its hash part does not depend on its content, which may contain it.
func (c handmade) addPath(path store.Path, nar []byte, refs ...store.Path) store.Info {
	c.Helper()
	info := store.Info{Path: path, NarHash: sha256.Sum256(nar), NarSize: int64(len(nar)), References: store.SortPaths(refs)}
	hp := path.HashPart()
	var all []string
	for _, r := range info.References {
		all = append(all, r.String())
	}
	sig, err := c.secret.Sign(rand.Reader, fmt.Sprintf("1;%s;%s;%d;%s", info.Path, info.NarHash, info.NarSize, strings.Join(all, ",")))
	c.must(err)
	info.Signatures = []string{sig.String()}
	c.must(os.WriteFile(filepath.Join(c.dir, string(hp)+".nar"), nar, 0o644))
	c.must(os.WriteFile(filepath.Join(c.dir, string(hp)+".narinfo"), []byte(info.Narinfo(string(hp)+".nar")), 0o644))
	return info
}

// holder adds a machine that shares the cache by narbor.
func (c handmade) holder(name string) *lan.Host {
	c.Helper()
	h := c.host(lan.HostConfig{Name: name, Binds: map[string]string{"srv/cache": c.dir}}, "substituters =",
		"extra-trusted-public-keys = "+c.public)
	c.start(h, "--cache-dir", "/srv/cache", "--share-key", "handmade-1")
	return h
}

// narOf is the archive of a node.
func narOf(tokens ...string) (nar []byte) {
	for _, s := range append([]string{"nix-archive-1"}, tokens...) {
		nar = binary.LittleEndian.AppendUint64(nar, uint64(len(s)))
		nar = append(append(nar, s...), make([]byte, -len(s)&7)...)
	}
	return nar
}

func fileTokens(contents string) []string {
	return []string{"(", "type", "regular", "contents", contents, ")"}
}

// TestEveryNixGetsUnusualNames has a path with a name that begins with a dot, one that refers to it, and one with Nix's
// case-hack suffix of macOS in a file's name.
func TestEveryNixGetsUnusualNames(t *testing.T) {
	nixes := nixes(t)
	w := newWorld(t)
	c := newHandmade(w)
	dot := c.add(".p10k.zsh", narOf(fileTokens(strings.Repeat("prompt ", 1<<19))...))
	home := c.add("home-files", narOf(fileTokens(dot.Path.String())...), dot.Path)
	entry := append([]string{"(", "type", "directory", "entry", "(", "name", "a~nix~case~hack~1", "node"}, fileTokens("x")...)
	hacked := c.add("hacked", narOf(append(entry, ")", ")")...))
	c.holder("alice")
	for _, nix := range nixes {
		h := w.host(lan.HostConfig{Name: "bob-" + nix.Version, System: nix.System}, "substituters = "+lan.Substituter,
			"extra-trusted-public-keys = "+c.public)
		w.start(h, "--share-key", "handmade-1") // it asks neighbours for what it has itself, too
		w.neighbours(h, 1)
		said, err := h.Watch(w.ctx, func(string) {}, "sh", "-c", `nix-store --realise --dry-run "$0" 2>&1`, home.Path.String())
		w.must(err)
		if !strings.Contains(said, "(3.5 MiB download") && !strings.Contains(said, "(3.50 MiB download") {
			t.Errorf("Nix %s, asked what it would download: %s, want 3.5 MiB", nix.Version, said)
		}
		w.realise(h, home.Path.String(), hacked.Path.String())
		w.must(h.Verify(w.ctx))
		code, body, err := h.Get(w.ctx, lan.Substituter+"/"+string(dot.Path.HashPart())+".narinfo")
		if err != nil || code != "200" || !strings.Contains(body, "\nReferences: \n") {
			t.Errorf("narinfo without references: %s %q, %v, want an empty line of them", code, body, err)
		}
	}
}

// TestNamesOfPathsAreThoseOfTheNewestNix compares the table in the tests of package store with Nix.
func TestNamesOfPathsAreThoseOfTheNewestNix(t *testing.T) {
	nixes := nixes(t)
	w := newWorld(t)
	newest := nixes[len(nixes)-1]
	h := w.host(lan.HostConfig{Name: "newest", System: newest.System}, "substituters =")
	table, err := os.ReadFile("../store/testdata/names")
	w.must(err)
	var bad []string
	good := "["
	for line := range strings.Lines(string(table)) {
		verdict, quoted, _ := strings.Cut(strings.TrimSpace(line), " ")
		name, err := strconv.Unquote(quoted)
		w.must(err)
		if verdict == "good" {
			good += " " + quoted
		} else {
			bad = append(bad, name)
		}
	}
	nix := []string{"--store", "dummy://", "--eval", "--strict"}
	if _, err := h.Run(w.ctx, "nix-instantiate", append(nix, "-E", `map (n: builtins.toFile n "") `+good+" ]")...); err != nil {
		t.Errorf("Nix %s refuses one of the good names: %v", newest.Version, err)
	}
	w.must(h.WriteFile("/tmp/names", strings.Join(bad, "\x00")+"\x00"))
	const try = `nix-instantiate --store dummy:// --eval --argstr n "$0" -E '{ n }: builtins.toFile n ""' 2>/dev/null || true`
	taken, err := h.Run(w.ctx, "xargs", "-0", "-n", "1", "-P", "4", "-a", "/tmp/names", "sh", "-c", try)
	if err != nil || taken != "" {
		t.Errorf("Nix %s accepts bad names: %s, %v", newest.Version, taken, err)
	}
}
