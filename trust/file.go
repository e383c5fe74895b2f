package trust

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/nix-community/go-nix/pkg/nixbase32"

	"narbor/store"
)

// A File names a file by the hash of its contents, as the URLs of Nix's hashed mirrors do. The zero value names none.
type File struct {
	content content
	inner   string // what Nix hashes together with a name into the hash part of a store path
}

// ParseFile accepts Nix's name of an algorithm (md5, sha1, sha256 or sha512), and a hash in base 16 or in Nix's base 32.
func ParseFile(algo, text string) (File, error) {
	sum := newHash(algo)
	if sum == nil {
		return File{}, fmt.Errorf("%.20q is no algorithm that Nix has", algo)
	}
	digest, err := hex.DecodeString(text)
	if len(text) != hex.EncodedLen(sum.Size()) {
		digest, err = nixbase32.DecodeString(text)
	}
	if err != nil || len(digest) != sum.Size() || hex.EncodeToString(digest) != text && nixbase32.EncodeToString(digest) != text {
		return File{}, fmt.Errorf("%.140q is no %s hash in base 16 or Nix's base 32", text, algo)
	}
	inner := sha256.Sum256([]byte("fixed:out:" + algo + ":" + hex.EncodeToString(digest) + ":"))
	ca := "fixed:" + algo + ":" + nixbase32.EncodeToString(digest)
	return File{content{ca: ca, algo: algo, digest: string(digest), flat: true}, string(inner[:])}, nil
}

// ParseFileAddress is the inverse of [File.String].
func ParseFileAddress(ca string) (File, error) {
	algo, hash, _ := strings.Cut(strings.TrimPrefix(ca, "fixed:"), ":")
	f, err := ParseFile(algo, hash)
	if err == nil && f.String() != ca {
		err = fmt.Errorf("%.140q is no address of a file", ca)
	}
	if err != nil {
		return File{}, err
	}
	return f, nil
}

// String returns the content address that Nix gives to the file.
func (f File) String() string { return f.content.ca }

// PathCalled returns the hash part of the store path with that name that Nix gives to the file.
func (f File) PathCalled(name string) store.HashPart {
	return store.MakeHashPart("output:out", f.inner, name)
}

// In returns the contents of the file if nar is the archive of it and nothing else. The error wraps [store.ErrCorrupt] if
// it is not.
func (f File) In(nar store.NAR) (*io.SectionReader, error) {
	if f.content.ca == "" {
		return nil, errors.New("no file is named")
	}
	file, err := plainFile(nar)
	if err == nil {
		err = f.content.checkHash(file)
	}
	if err == nil {
		_, err = file.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, fmt.Errorf("not %s: %w: %w", f, store.ErrCorrupt, err)
	}
	return file, nil
}
