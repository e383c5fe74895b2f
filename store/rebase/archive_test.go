package rebase_test

import (
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"narbor/store"
	"narbor/store/rebase"
)

// A node is a file of an archive: a directory if it has entries, a symlink if it has a target.
type node struct {
	entries    map[string]node
	target     string
	contents   string
	executable bool
}

// archiveOf returns the archive of a tree, as Nix writes it.
func archiveOf(n node) string { return string(n.appendTo(words(nil, "nix-archive-1"))) }

func (n node) appendTo(b []byte) []byte {
	switch {
	case n.entries != nil:
		b = words(b, "(", "type", "directory")
		for _, name := range slices.Sorted(maps.Keys(n.entries)) {
			b = words(n.entries[name].appendTo(words(b, "entry", "(", "name", name, "node")), ")")
		}
	case n.target != "":
		b = words(b, "(", "type", "symlink", "target", n.target)
	case n.executable:
		b = words(b, "(", "type", "regular", "executable", "", "contents", n.contents)
	default:
		b = words(b, "(", "type", "regular", "contents", n.contents)
	}
	return words(b, ")")
}

// words appends strings to an archive: the length, the bytes, zeros up to a multiple of eight.
func words(b []byte, texts ...string) []byte {
	for _, w := range texts {
		b = append(binary.LittleEndian.AppendUint64(b, uint64(len(w))), w...)
		b = append(b, make([]byte, -len(w)&7)...)
	}
	return b
}

// packageOf returns a tree that names the paths in all the ways that the packages of a distribution do.
func packageOf(self, lib, shell store.Path) node {
	long := strings.Repeat("text without a path, 0123456789abcdf\n", 20_000)
	return node{entries: map[string]node{
		"bin": {entries: map[string]node{
			"tool":    {executable: true, contents: "\x7fELF\x00" + long + lib.String() + "/lib:" + self.String() + "/lib\x00" + long},
			"wrapper": {executable: true, contents: "#!" + shell.String() + "/bin/sh\nexec " + self.String() + "/bin/tool\n"},
			"sh":      {target: shell.String() + "/bin/sh"},
		}},
		"nix-support": {entries: map[string]node{
			"propagated": {contents: lib.String() + " " + shell.String() + "\n"},
			"hash-parts": {contents: string(lib.HashPart() + shell.HashPart() + self.HashPart())},
		}},
		"roots": {entries: map[string]node{lib.Base(): {target: lib.String()}}},
	}}
}

// rebuild returns the archive that is made of the old one, and the one that is wanted.
func rebuild(t *testing.T, of func(self, lib, shell store.Path) node, olds, wanteds [3]string) (got, want string) {
	t.Helper()
	made := [2]string{}
	infos := [2]store.Info{}
	for i, bases := range [][3]string{olds, wanteds} {
		self, lib, shell := path(t, bases[0]), path(t, bases[1]), path(t, bases[2])
		made[i] = archiveOf(of(self, lib, shell))
		infos[i] = store.Info{Path: self, NarSize: int64(len(made[i])), References: store.SortPaths([]store.Path{self, lib, shell})}
	}
	pairs, err := rebase.Pairs(infos[0], infos[1])
	if err != nil {
		t.Fatal(err)
	}
	var pieces []string
	for p := range slices.Chunk([]byte(made[0]), 64<<10) {
		pieces = append(pieces, string(p))
	}
	return rewrite(t, pairs, pieces...), made[1]
}

func TestRebuiltArchiveIsTheWantedOne(t *testing.T) {
	for _, c := range []struct {
		name          string
		olds, wanteds [3]string
	}{
		{"new hash parts", [3]string{hash1 + "-tool-1", hash2 + "-lib-1.0", hash3 + "-bash"},
			[3]string{new1 + "-tool-1", new2 + "-lib-1.0", new3 + "-bash"}},
		{"new versions", [3]string{hash1 + "-tool-1", hash2 + "-lib-1.0", hash3 + "-sh-5"},
			[3]string{new1 + "-tool-2", new2 + "-lib-1.1", new3 + "-sh-6"}},
		{"one reference stays", [3]string{hash1 + "-tool-1", hash2 + "-lib-1.0", hash3 + "-bash"},
			[3]string{new1 + "-tool-1", new2 + "-lib-1.0", hash3 + "-bash"}},
		{"two references became one", [3]string{hash1 + "-tool-1", hash2 + "-lib-1.0", hash3 + "-lib-1.0"},
			[3]string{new1 + "-tool-1", new2 + "-lib-1.0", new2 + "-lib-1.0"}},
		{"hash parts change places", [3]string{hash1 + "-tool-1", hash2 + "-lib-1.0", hash3 + "-bash"},
			[3]string{hash2 + "-tool-1", hash3 + "-lib-1.0", hash1 + "-bash"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got, want := rebuild(t, packageOf, c.olds, c.wanteds); sha256.Sum256([]byte(got)) != sha256.Sum256([]byte(want)) {
				t.Errorf("the rebuilt archive is another one than the wanted one: %d and %d bytes", len(got), len(want))
			}
		})
	}
}

// The archive and the claims were made by Nix, with the script beside them.
func TestRebuiltArchiveHasTheNarHashOfNix(t *testing.T) {
	golden := func(name string) string {
		text, err := os.ReadFile(filepath.Join("testdata/generations", name))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	claim := func(name string) store.Info {
		info, err := store.ParseInfo(golden(name))
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	archive := golden("old.nar")
	for _, name := range []string{"rebuilt.narinfo", "upgraded.narinfo"} {
		old, wanted := claim("old.narinfo"), claim(name)
		for _, c := range []struct{ from, to store.Info }{{old, wanted}, {wanted, old}} {
			pairs, err := rebase.Pairs(c.from, c.to)
			if err != nil || len(pairs) != 3 {
				t.Fatalf("Pairs(%s, %s) = %v, %v, want three", c.from.Path, c.to.Path, pairs, err)
			}
			archive = rewrite(t, pairs, archive)
			if got := store.Hash(sha256.Sum256([]byte(archive))); got != c.to.NarHash {
				t.Fatalf("the archive of %s that was made of %s has NarHash %s, want %s", c.to.Path, c.from.Path, got, c.to.NarHash)
			}
		}
	}
}

// In each of these cases the length is right, and the hash is not.
func TestRebuiltArchiveIsAnotherOne(t *testing.T) {
	olds := [3]string{hash1 + "-tool-1", hash2 + "-lib-1.0", hash3 + "-lib-1.0"}
	wanteds := [3]string{new1 + "-tool-1", new2 + "-lib-1.1", new3 + "-lib-1.2"}
	for _, c := range []struct {
		name    string
		wanteds [3]string
		of      func(self, lib, shell store.Path) node
	}{
		{"compressed store path", wanteds, func(self, _, _ store.Path) node {
			return node{contents: (gzipped(self.String()) + strings.Repeat("\x00", 99))[:99]}
		}},
		{"store path in UTF-16", wanteds, func(self, _, _ store.Path) node { return node{contents: utf16(self.String())} }},
		{"version without its store path", wanteds, func(_, lib, _ store.Path) node { return node{contents: lib.Name()} }},
		{"order of names", [3]string{new1 + "-tool-1", new3 + "-lib-1.1", new2 + "-lib-1.2"}, func(self, lib, other store.Path) node {
			return node{entries: map[string]node{self.Base(): {}, lib.Base(): {target: "a"}, other.Base(): {target: "b"}}}
		}},
		{"two references of one name the wrong way around", [3]string{new1 + "-tool-1", new3 + "-lib-1.0", new2 + "-lib-1.0"}, packageOf},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, want := rebuild(t, c.of, olds, c.wanteds)
			if len(got) != len(want) || got == want {
				t.Errorf("the rebuilt archive has %d bytes, the wanted one %d; equal: %v", len(got), len(want), got == want)
			}
		})
	}
}
