package trust

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"strings"

	"github.com/nix-community/go-nix/pkg/nixhash"

	"narbor/store"
)

// A content is a content address from which its store path has been recomputed.
type content struct {
	ca   string     // as Nix writes it; "" if there is none
	hash store.Hash // of the NAR, or of the file in it
	flat bool       // the NAR must be one plain file, and hash is the file's
}

// recompute reports whether a claim's store path follows from its content address. The claim's references must be sorted.
// Content addresses of other kinds than the package comment lists are as good as none. A path that refers to itself never
// follows: Nix leaves that reference out when it computes such a path, and recompute does not.
func recompute(info store.Info) (content, bool) {
	kind, hash, ok := strings.Cut(info.CA, "sha256:")
	h, err := store.ParseHash("sha256:" + hash)
	if !ok || err != nil || h.Base32() != hash {
		return content{}, false
	}
	var refs strings.Builder
	for _, r := range info.References {
		refs.WriteString(":" + r.String())
	}
	var hp store.HashPart
	switch kind {
	case "fixed:r:":
		ok = h == info.NarHash
		hp = makeHashPart("source"+refs.String(), h, info.Path.Name())
	case "fixed:":
		ok = len(info.References) == 0
		inner := sha256.Sum256([]byte("fixed:out:sha256:" + hex.EncodeToString(h[:]) + ":"))
		hp = makeHashPart("output:out", inner, info.Path.Name())
	case "text:":
		hp = makeHashPart("text"+refs.String(), h, info.Path.Name())
	}
	if !ok || hp != info.Path.HashPart() {
		return content{}, false
	}
	return content{ca: info.CA, hash: h, flat: kind != "fixed:r:"}, true
}

// makeHashPart computes the hash part of a store path as Nix does, from Nix's name for the kind of the content.
func makeHashPart(kind string, inner store.Hash, name string) store.HashPart {
	sum := sha256.Sum256([]byte(kind + ":sha256:" + hex.EncodeToString(inner[:]) + ":" + store.Dir + ":" + name))
	return store.HashPartFromBytes([20]byte(nixhash.CompressHash(sum[:], 20)))
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

// checkFile returns nil only if nar is, to the last byte, the archive of one regular, non-executable file with that hash.
// For given contents there is exactly one such archive.
func (c content) checkFile(nar store.NAR) error {
	head, err := read(nar, 0, int64(len(fileHead)+8))
	if err != nil || !strings.HasPrefix(head, fileHead) {
		return errors.Join(errors.New("not a plain file"), err)
	}
	begin, size := int64(len(head)), binary.LittleEndian.Uint64([]byte(head[len(fileHead):]))
	end := begin + int64(size)
	// If the sum overflows, end lies in the head of the archive, and the comparison of the tail fails.
	if end+(-int64(size)&7)+int64(len(fileTail)) != nar.Size() {
		return errors.New("the file does not fill the NAR")
	}
	tail, err := read(nar, end, nar.Size()-end)
	if err != nil || tail != strings.Repeat("\x00", len(tail)-len(fileTail))+fileTail {
		return errors.Join(errors.New("the NAR does not end with the file"), err)
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(nar, begin, int64(size))); err != nil {
		return err
	}
	if store.Hash(sum.Sum(nil)) != c.hash {
		return errors.New("the file has another hash")
	}
	return nil
}

// read returns the n bytes at off; n is small.
func read(nar io.ReaderAt, off, n int64) (string, error) {
	b := make([]byte, n)
	_, err := io.ReadFull(io.NewSectionReader(nar, off, n), b)
	return string(b), err
}
