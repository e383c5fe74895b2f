package main

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
)

// text is a narinfo.
type text string

// field returns the value of the first line with that key, or "".
func (t text) field(key string) string {
	for line := range strings.Lines(string(t)) {
		if v, ok := strings.CutPrefix(line, key+": "); ok {
			return strings.TrimSuffix(v, "\n")
		}
	}
	return ""
}

// line replaces the first line with that key by lines, or removes it if there are none; the key must be there.
func (t text) line(key string, lines ...string) text {
	all := strings.SplitAfter(string(t), "\n")
	i := slices.IndexFunc(all, func(l string) bool { return strings.HasPrefix(l, key+":") })
	if i < 0 {
		panic(key + " is not in " + string(t))
	}
	for j := range lines {
		lines[j] += "\n"
	}
	return text(strings.Join(slices.Replace(all, i, i+1, lines...), ""))
}

// set replaces the value of a key.
func (t text) set(key, value string) text { return t.line(key, key+": "+value) }

// add appends a line.
func (t text) add(key, value string) text { return t + text(key+": "+value+"\n") }

// genuine is a store path as Nix made it: its narinfo and its archive.
type genuine struct {
	path string
	text
	nar []byte
}

// withSig replaces the first signature.
func (t text) withSig(sig string) text { return t.line("Sig").add("Sig", sig) }

type keyPair struct{ name, file, public string }

// sign signs whatever it is given; Nix itself signs nothing but well-formed fingerprints.
func (k keyPair) sign(message string) string {
	b, err := os.ReadFile(k.file)
	check(err)
	bits, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(strings.TrimSpace(string(b)), k.name+":"))
	check(err)
	return k.name + ":" + base64.StdEncoding.EncodeToString(ed25519.Sign(bits, []byte(message)))
}

// material is the keys and paths from which the vectors are made.
type material struct {
	world
	upstream, other keyPair
	// Signed by upstream, input-addressed.
	dep, lib, app genuine
	// Not signed, content-addressed.
	tree, caDep, caLib, caApp, file, file8, empty, note, page, drv genuine
	md5, sha1, sha512, treeMD5, treeSHA1, treeSHA512               genuine
	// The same as those above, and signed.
	signedTree, signedFile, signedNote, signedSHA1 genuine
	// lib signed by the other key, and by both.
	otherLib, bothLib genuine
}

// fileText is in a file, in a text, and at the end of forged symbolic links.
const fileText = "one file\nof 19 bytes\n"

func gather(w world, keysDir string) material {
	check(errors.Join(os.MkdirAll(w.path("home"), 0o755), os.MkdirAll(w.path("conf"), 0o755), os.MkdirAll(keysDir, 0o755)))
	conf := "build-users-group =\nsandbox-paths = /bin /usr /lib /lib64\nsandbox-fallback = false\n"
	check(os.WriteFile(w.path("conf", "nix.conf"), []byte(conf), 0o644))
	m := material{world: w}
	for name, key := range map[string]*keyPair{"upstream-1": &m.upstream, "other-1": &m.other} {
		key.name = name
		key.file, key.public = w.key(keysDir, name)
	}
	paths := m.build()
	must(w.nix("nix", "copy", "--no-check-sigs", "--all", "--to", m.cache("plain")))
	must(w.nix("nix", "store", "sign", "-k", m.other.file, paths["lib"]))
	must(w.nix("nix", "copy", "--no-check-sigs", "--all", "--to", m.cache("other")))
	must(w.nix("nix", "store", "sign", "--all", "-k", m.upstream.file))
	must(w.nix("nix", "copy", "--no-check-sigs", "--all", "--to", m.cache("both")))
	run("cp", "-a", w.path("both"), w.path("signed"))
	for name, g := range map[string]*genuine{
		"tree": &m.tree, "caDep": &m.caDep, "caLib": &m.caLib, "caApp": &m.caApp, "file": &m.file, "file8": &m.file8,
		"empty": &m.empty, "note": &m.note, "page": &m.page, "drv": &m.drv, "md5": &m.md5, "sha1": &m.sha1, "sha512": &m.sha512,
		"treeMD5": &m.treeMD5, "treeSHA1": &m.treeSHA1, "treeSHA512": &m.treeSHA512,
	} {
		*g = m.load("plain", paths[name])
		w.seed(*g)
	}
	m.signedTree, m.signedFile = m.load("both", paths["tree"]), m.load("both", paths["file"])
	m.signedNote, m.signedSHA1 = m.load("both", paths["note"]), m.load("both", paths["sha1"])
	m.dep, m.app = m.load("both", paths["dep"]), m.load("both", paths["app"])
	m.otherLib, m.bothLib = m.load("other", paths["lib"]), m.load("both", paths["lib"])
	m.lib = m.bothLib
	m.lib.text = m.lib.line("Sig") // Nix sorts signatures: the first is other-1's
	for _, g := range []genuine{m.dep, m.lib, m.app} {
		w.seed(g)
	}
	return m
}

func (w world) cache(name string) string { return "file://" + w.path(name) + "?compression=none" }

func (w world) load(cache, path string) genuine {
	b, err := os.ReadFile(w.path(cache, baseHash(path)+".narinfo"))
	check(err)
	g := genuine{path: path, text: text(b)}
	g.nar, err = os.ReadFile(w.path(cache, g.field("URL")))
	check(err)
	return g
}

// build makes the store paths in the store "src".
func (w world) build() map[string]string {
	check(os.WriteFile(w.path("packages.nix"), []byte(packages), 0o644))
	paths := map[string]string{
		"drv":  must(w.nix("nix-instantiate", "packages.nix", "-A", "lib")),
		"note": w.eval(fmt.Sprintf("builtins.toFile \"note.txt\" %q", fileText)),
		"page": w.eval(fmt.Sprintf("builtins.toFile \"page.txt\" \"see ${builtins.toFile \"note.txt\" %q}\"", fileText)),
	}
	for _, name := range []string{"dep", "lib", "app"} {
		paths[name] = must(w.nix("nix-build", "packages.nix", "--no-out-link", "-A", name))
	}
	rewritten := must(w.nix("nix", "store", "make-content-addressed", "--json", paths["dep"], paths["lib"], paths["app"]))
	for ca, name := range map[string]string{"caDep": "dep", "caLib": "lib", "caApp": "app"} {
		_, after, _ := strings.Cut(rewritten, `"`+paths[name]+`":"`)
		paths[ca], _, _ = strings.Cut(after, `"`)
	}
	check(os.MkdirAll(w.path("in", "tree", "bin"), 0o755))
	for name, contents := range map[string]string{"file": fileText, "file8": "8 bytes\n", "empty": "", "tree/README": "a tree\n"} {
		check(os.WriteFile(w.path("in", name), []byte(contents), 0o644))
	}
	check(errors.Join(os.WriteFile(w.path("in", "tree", "bin", "run"), []byte("#!/bin/sh\n"), 0o755),
		os.Symlink("bin/run", w.path("in", "tree", "link"))))
	paths["tree"] = must(w.nix("nix-store", "--add", "in/tree"))
	for _, name := range []string{"file", "file8", "empty"} {
		paths[name] = must(w.nix("nix-store", "--add-fixed", "sha256", "in/"+name))
	}
	for _, algo := range []string{"md5", "sha1", "sha512"} {
		paths[algo] = must(w.nix("nix-store", "--add-fixed", algo, "in/file"))
		paths["tree"+strings.ToUpper(algo)] = must(w.nix("nix-store", "--add-fixed", "--recursive", algo, "in/tree"))
	}
	return paths
}

// eval returns the store path that an expression evaluates to.
func (w world) eval(expr string) string {
	return strings.Trim(must(w.nix("nix-instantiate", "--eval", "--read-write-mode", "-E", expr)), `"`)
}

func must(s string, err error) string {
	check(err)
	return s
}
