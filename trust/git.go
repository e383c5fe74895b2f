package trust

import (
	"bufio"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"strings"
)

// Limits of the archives of which git's hash is computed.
const (
	maxGitDepth   = 64      // folders in each other
	maxGitEntries = 300_000 // of all folders that are being read
	maxGitName    = 255
	maxGitTarget  = 4095
)

// errNAR is the error of bytes that are no archive.
var errNAR = errors.New("not an archive as Nix writes it")

// newHash returns a hash of Nix's name for it, or nil. MD5 and SHA-1 are here because Nix believes them: an author can
// make two contents with one hash, and a peer cannot make another content for a hash that is known.
func newHash(algo string) hash.Hash {
	switch algo {
	case "md5":
		return md5.New()
	case "sha1":
		return sha1.New()
	case "sha256":
		return sha256.New()
	case "sha512":
		return sha512.New()
	}
	return nil
}

// A gitHasher computes the object ID that git gives to the content of an archive. It reads the archive once, from its
// beginning, and holds the entries of the folders in memory that it is in.
type gitHasher struct {
	r       *bufio.Reader
	algo    string
	entries int
}

// A gitEntry is an entry of a tree object.
type gitEntry struct {
	mode, name string
	id         []byte
}

// gitHash returns the object ID of an archive's content: a tree's or a blob's. algo is sha1 or sha256.
func gitHash(algo string, nar io.Reader) ([]byte, error) {
	g := &gitHasher{r: bufio.NewReaderSize(nar, 64<<10), algo: algo}
	if err := g.expect("nix-archive-1"); err != nil {
		return nil, err
	}
	e, err := g.node(0)
	if err == nil && e.mode != "100644" && e.mode != "40000" { // a blob's ID would not fix the mode
		return nil, errors.New("git has no object that is a symlink or an executable file by itself")
	}
	if err == nil {
		if _, err = g.r.ReadByte(); err == io.EOF {
			return e.id, nil
		}
		err = errors.Join(errNAR, err)
	}
	return nil, err
}

func (g *gitHasher) object(kind string, size int64) hash.Hash {
	sum := newHash(g.algo)
	fmt.Fprintf(sum, "%s %d\x00", kind, size)
	return sum
}

// node reads a node to its end.
func (g *gitHasher) node(depth int) (e gitEntry, err error) {
	if depth > maxGitDepth {
		return e, fmt.Errorf("%w: nested deeper than %d", errNAR, maxGitDepth)
	}
	if err := g.expect("(", "type"); err != nil {
		return e, err
	}
	kind, err := g.str(maxWord)
	if err != nil {
		return e, err
	}
	switch kind {
	case "regular":
		return g.file()
	case "symlink":
		if err := g.expect("target"); err != nil {
			return e, err
		}
		target, err := g.str(maxGitTarget)
		if err != nil {
			return e, err
		}
		sum := g.object("blob", int64(len(target)))
		_, _ = io.WriteString(sum, target)
		return gitEntry{mode: "120000", id: sum.Sum(nil)}, g.expect(")")
	case "directory":
		return g.directory(depth)
	}
	return e, errNAR
}

// maxWord is the length of the longest word of the format, and more.
const maxWord = 16

func (g *gitHasher) file() (e gitEntry, err error) {
	e.mode = "100644"
	word, err := g.str(maxWord)
	if err == nil && word == "executable" {
		e.mode = "100755"
		if err = g.expect(""); err == nil {
			word, err = g.str(maxWord)
		}
	}
	if err == nil && word != "contents" {
		err = errNAR
	}
	var size uint64
	if err == nil {
		size, err = g.length(1 << 62)
	}
	if err != nil {
		return e, err
	}
	sum := g.object("blob", int64(size))
	if _, err := io.CopyN(sum, g.r, int64(size)); err != nil {
		return e, errors.Join(errNAR, err)
	}
	e.id = sum.Sum(nil)
	if err := g.padding(size); err != nil {
		return e, err
	}
	return e, g.expect(")")
}

func (g *gitHasher) directory(depth int) (gitEntry, error) {
	var entries []gitEntry
	for {
		word, err := g.str(maxWord)
		if err != nil {
			return gitEntry{}, err
		}
		if word == ")" {
			break
		}
		if g.entries++; word != "entry" || g.entries > maxGitEntries {
			return gitEntry{}, fmt.Errorf("%w, or with more than %d files", errNAR, maxGitEntries)
		}
		if err := g.expect("(", "name"); err != nil {
			return gitEntry{}, err
		}
		name, err := g.str(maxGitName)
		if err == nil {
			err = g.expect("node")
		}
		if err != nil {
			return gitEntry{}, err
		}
		e, err := g.node(depth + 1)
		if err == nil {
			err = g.expect(")")
		}
		if err != nil {
			return gitEntry{}, err
		}
		e.name = name
		entries = append(entries, e)
	}
	g.entries -= len(entries)
	return gitEntry{mode: "40000", id: g.tree(entries)}, nil
}

// tree returns the ID of a tree object. Git sorts a folder as if its name ended with a slash.
func (g *gitHasher) tree(entries []gitEntry) []byte {
	order := func(e gitEntry) string {
		if e.mode == "40000" {
			return e.name + "/"
		}
		return e.name
	}
	slices.SortFunc(entries, func(a, b gitEntry) int { return strings.Compare(order(a), order(b)) })
	size := 0
	for _, e := range entries {
		size += len(e.mode) + len(e.name) + len(e.id) + 2
	}
	sum := g.object("tree", int64(size))
	for _, e := range entries {
		_, _ = io.WriteString(sum, e.mode+" "+e.name+"\x00")
		_, _ = sum.Write(e.id)
	}
	return sum.Sum(nil)
}

func (g *gitHasher) expect(words ...string) error {
	for _, want := range words {
		if got, err := g.str(len(want)); err != nil || got != want {
			return errors.Join(errNAR, err)
		}
	}
	return nil
}

func (g *gitHasher) length(most uint64) (uint64, error) {
	var b [8]byte
	if _, err := io.ReadFull(g.r, b[:]); err != nil {
		return 0, errors.Join(errNAR, err)
	}
	n := binary.LittleEndian.Uint64(b[:])
	if n > most {
		return 0, errNAR
	}
	return n, nil
}

// str reads a string of at most so many bytes, which are few.
func (g *gitHasher) str(most int) (string, error) {
	n, err := g.length(uint64(most))
	if err != nil {
		return "", err
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(g.r, b); err != nil {
		return "", errors.Join(errNAR, err)
	}
	return string(b), g.padding(n)
}

// padding reads the zeros that follow n bytes.
func (g *gitHasher) padding(n uint64) error {
	for range -n & 7 {
		if b, err := g.r.ReadByte(); err != nil || b != 0 {
			return errors.Join(errNAR, err)
		}
	}
	return nil
}
