package trust

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"testing"
	"testing/iotest"

	"github.com/nix-community/go-nix/pkg/nixbase32"

	"narbor/store"
)

// entryOf is the archive of a folder's entry.
func entryOf(name, node string) string {
	return narStrings("entry", "(", "name", name, "node") + node + narStrings(")")
}

func fileOf(contents string) string {
	return narStrings("(", "type", "regular", "contents", contents, ")")
}

// The IDs are those of git hash-object and git mktree.
func TestGitHash(t *testing.T) {
	magic := narStrings("nix-archive-1")
	empty := narStrings("(", "type", "directory", ")")
	script := narStrings("(", "type", "regular", "executable", "", "contents", "#!/bin/sh\n", ")")
	link := narStrings("(", "type", "symlink", "target", "a/b", ")")
	folder := func(entries string) string { return narStrings("(", "type", "directory") + entries + narStrings(")") }
	// git sorts a.b before the folder a
	tree := folder(entryOf("a", folder(entryOf("deep", fileOf("one\n"))+entryOf("run", script))) + entryOf("a.b", fileOf("one\n")) +
		entryOf("empty", fileOf("")) + entryOf("link", link))
	for _, tt := range []struct{ name, nar, sha1, sha256 string }{
		{"file", fileOf("one\n"), "5626abf0f72e58d7a153368ba57db4c673c0e171",
			"a4ed1f355afb02d88cd291d0e4463910c5061ece48a49aa2b1539b9af973b286"},
		{"empty tree", empty, "4b825dc642cb6eb9a060e54bf8d69288fbee4904",
			"6ef19b41225c5369f1c104d45d8d85efa9b057b53b14b4b9b939dd74decc5321"},
		{"tree", tree, "04d280e51cdf31a61f8bda4e7c5d2b36db872083", "6e99bfa39d526c7e09903f7e67b75ecf9614a10631354ee2aefb029c74bed709"},
	} {
		for algo, want := range map[string]string{"sha1": tt.sha1, "sha256": tt.sha256} {
			id, err := gitHash(algo, iotest.OneByteReader(bytes.NewReader([]byte(magic+tt.nar))))
			if got := hex.EncodeToString(id); err != nil || got != want {
				t.Errorf("gitHash(%s, %s) = %s, %v, want %s", algo, tt.name, got, err, want)
			}
		}
		whole := []byte(magic + tt.nar)
		for n := range len(whole) {
			if _, err := gitHash("sha1", bytes.NewReader(whole[:n])); err == nil {
				t.Fatalf("gitHash of the first %d bytes of %s is no error", n, tt.name)
			}
		}
		if _, err := gitHash("sha1", bytes.NewReader(append(whole, 0))); err == nil {
			t.Errorf("gitHash of %s and one byte more is no error", tt.name)
		}
	}
	deep := empty
	for range maxGitDepth + 1 {
		deep = folder(entryOf("d", deep))
	}
	for name, nar := range map[string]string{"link": link, "executable": script, "deep": deep,
		"long name": folder(entryOf(string(make([]byte, 256)), empty))} {
		if _, err := gitHash("sha1", bytes.NewReader([]byte(magic+nar))); err == nil {
			t.Errorf("gitHash of %s is no error", name)
		}
	}
}

// A path with git's content address is believed only if Nix knows of these, and its NAR only if it has that object ID.
func TestGitAddress(t *testing.T) {
	nar := []byte(narStrings("nix-archive-1") + fileOf("one\n"))
	id, err := gitHash("sha1", bytes.NewReader(nar))
	if err != nil {
		t.Fatal(err)
	}
	info := store.Info{NarSize: int64(len(nar)), CA: "fixed:git:sha1:" + nixbase32.EncodeToString(id)}
	c, _, ok := parseContent(info.CA)
	if !ok || !c.git || c.flat {
		t.Fatalf("parseContent(%s) = %+v, %v", info.CA, c, ok)
	}
	inner := sha256.Sum256([]byte("fixed:out:git:sha1:" + hex.EncodeToString(id) + ":"))
	path, err := store.ParsePathName(string(store.MakeHashPart("output:out", string(inner[:]), "t")) + "-t")
	if err != nil {
		t.Fatal(err)
	}
	info.Path = path
	keys := new(Keys)
	if m, err := keys.Check(info); !errors.Is(err, ErrUntrusted) {
		t.Errorf("Check = %v, %v without git-hashing, want ErrUntrusted", m, err)
	}
	keys.BelieveGit(true)
	m, err := keys.Check(info)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.CheckNAR(memNAR{bytes.NewReader(nar)}); err != nil {
		t.Errorf("CheckNAR = %v", err)
	}
	evil := []byte(narStrings("nix-archive-1") + fileOf("two\n"))
	if err := m.CheckNAR(memNAR{bytes.NewReader(evil)}); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("CheckNAR of another file = %v, want ErrCorrupt", err)
	}
	keys.BelieveGit(false)
	if keys.Trusts(m) {
		t.Error("the mapping is trusted though git-hashing is off")
	}
	for _, ca := range []string{"fixed:git:md5:" + info.CA[15:], "fixed:r:git:sha1:" + info.CA[15:], "text:git:sha1:" + info.CA[15:],
		"fixed:git:r:sha1:" + info.CA[15:], "fixed:git:sha512:" + info.CA[15:], "fixed:git:sha256:" + info.CA[15:]} {
		if _, _, ok := parseContent(ca); ok {
			t.Errorf("parseContent(%s) takes it", ca)
		}
	}
}
