package trust

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"strings"

	"github.com/nix-community/go-nix/pkg/nixbase32"

	"narbor/store"
)

// A content is a content address from which its store path has been recomputed.
type content struct {
	ca      string // as Nix writes it; "" if there is none
	algo    string // of digest: md5, sha1, sha256 or sha512
	digest  string // in bytes, of the NAR, or of the file in it
	flat    bool   // the NAR must be one plain file, and digest is the file's
	git     bool   // digest is the object ID that git gives to what the NAR has
	settled bool   // by NarHash: the NAR needs no further check
}

// parseContent reads a content address, with Nix's name for its kind. It has one spelling, the one that Nix writes.
func parseContent(ca string) (c content, kind string, ok bool) {
	kind, rest, _ := strings.Cut(ca, ":")
	rest, recursive := strings.CutPrefix(rest, "r:")
	rest, git := strings.CutPrefix(rest, "git:")
	algo, text, _ := strings.Cut(rest, ":")
	sum := newHash(algo)
	if sum == nil || kind != "fixed" && (kind != "text" || recursive || git || algo != "sha256") {
		return content{}, "", false
	}
	if git && (recursive || algo != "sha1" && algo != "sha256") {
		return content{}, "", false
	}
	digest, err := nixbase32.DecodeString(text)
	if err != nil || len(digest) != sum.Size() || nixbase32.EncodeToString(digest) != text {
		return content{}, "", false
	}
	return content{ca: ca, algo: algo, digest: string(digest), flat: !recursive && !git, git: git}, kind, true
}

// recompute reports whether a claim's store path follows from its content address. The claim's references must be
// sorted. Content addresses of other kinds than the package comment lists are as good as none. A path that refers to
// itself never follows: Nix leaves that reference out when it computes such a path, and recompute does not.
func recompute(info store.Info) (content, bool) {
	c, kind, ok := parseContent(info.CA)
	if !ok {
		return content{}, false
	}
	var refs strings.Builder
	for _, r := range info.References {
		refs.WriteString(":" + r.String())
	}
	var hp store.HashPart
	switch {
	case kind == "text":
		hp = store.MakeHashPart("text"+refs.String(), c.digest, info.Path.Name())
	case c.algo == "sha256" && !c.flat && !c.git:
		c.settled = true
		ok = c.digest == string(info.NarHash[:])
		hp = store.MakeHashPart("source"+refs.String(), c.digest, info.Path.Name())
	default:
		ok = len(info.References) == 0
		method := "r:"
		if c.flat {
			method = ""
		} else if c.git {
			method = "git:"
		}
		inner := sha256.Sum256([]byte("fixed:out:" + method + c.algo + ":" + hex.EncodeToString([]byte(c.digest)) + ":"))
		hp = store.MakeHashPart("output:out", string(inner[:]), info.Path.Name())
	}
	if !ok || hp != info.Path.HashPart() {
		return content{}, false
	}
	return c, true
}

// fileHead and fileTail are what a NAR of one plain file has before the file's length and after its padding.
var (
	fileHead = narStrings("nix-archive-1", "(", "type", "regular", "contents")
	fileTail = narStrings(")")
)

func narStrings(tokens ...string) string {
	var b []byte
	for _, s := range tokens {
		b = binary.LittleEndian.AppendUint64(b, uint64(len(s)))
		b = append(b, s...)
		b = append(b, make([]byte, -len(b)&7)...)
	}
	return string(b)
}

// plainFile returns the contents of the file in nar. The error is nil only if nar is, to the last byte, the archive of
// one regular, non-executable file. For given contents there is exactly one such archive.
func plainFile(nar store.NAR) (*io.SectionReader, error) {
	head, err := read(nar, 0, int64(len(fileHead)+8))
	if err != nil || !strings.HasPrefix(head, fileHead) {
		return nil, errors.Join(errors.New("not a plain file"), err)
	}
	begin, size := int64(len(head)), binary.LittleEndian.Uint64([]byte(head[len(fileHead):]))
	end := begin + int64(size)
	// If the sum overflows, end lies in the head of the archive, and the comparison of the tail fails.
	if end+(-int64(size)&7)+int64(len(fileTail)) != nar.Size() {
		return nil, errors.New("the file does not fill the NAR")
	}
	tail, err := read(nar, end, nar.Size()-end)
	if err != nil || tail != strings.Repeat("\x00", len(tail)-len(fileTail))+fileTail {
		return nil, errors.Join(errors.New("the NAR does not end with the file"), err)
	}
	return io.NewSectionReader(nar, begin, int64(size)), nil
}

// checkFile returns nil only if nar is the archive of one plain file with that hash.
func (c content) checkFile(nar store.NAR) error {
	file, err := plainFile(nar)
	if err != nil {
		return err
	}
	return c.checkHash(file)
}

// check returns nil only if nar has the content.
func (c content) check(nar store.NAR) error {
	if c.flat {
		return c.checkFile(nar)
	}
	if c.git {
		id, err := gitHash(c.algo, io.NewSectionReader(nar, 0, nar.Size()))
		if err == nil && string(id) != c.digest {
			err = errors.New("another object ID")
		}
		return err
	}
	return c.checkHash(io.NewSectionReader(nar, 0, nar.Size()))
}

// checkHash returns nil only if the bytes of r have the content's hash. It holds few of them in memory.
func (c content) checkHash(r io.Reader) error {
	sum := newHash(c.algo)
	if _, err := io.Copy(sum, r); err != nil {
		return err
	}
	if string(sum.Sum(nil)) != c.digest {
		return errors.New("another hash")
	}
	return nil
}

// read returns the n bytes at off; n is small.
func read(nar io.ReaderAt, off, n int64) (string, error) {
	b := make([]byte, n)
	_, err := io.ReadFull(io.NewSectionReader(nar, off, n), b)
	return string(b), err
}
