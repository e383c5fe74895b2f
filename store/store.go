// Package store holds narbor's vocabulary: store paths and their hash parts, hashes, claims, the blocks of a NAR, and
// the interface of what has store paths, a [Source]. Of the packages below it nixstore, bincache, gitstore, upstream
// and spool have or take archives; damage and offered wrap a source; the others are about Nix's configuration and
// caches, or are helpers.
//
// Nothing here or below decides what to believe. An [Info] is a claim until package trust has checked it, and the bytes
// of a [NAR] are unchecked until a draft of the spool has compared their hash and the structure of the archive was
// checked. These packages never log, and import none of narbor's others.
package store

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
	"github.com/nix-community/go-nix/pkg/nixbase32"
	"github.com/nix-community/go-nix/pkg/nixhash"
)

// Dir is the only store directory narbor knows: upstream signatures name it, so no other can be shared.
const Dir = "/nix/store"

// BlockSize is the length in bytes of every block of a NAR but the last, which may be shorter. A NAR no longer
// than this is a single block, and its CID is the one that the upstream signature names.
const BlockSize = 256 << 10

// MaxNarSize bounds the NarSize that a claim may state: 1 TiB, far above any real store path, and low enough
// that sums of sizes never overflow.
const MaxNarSize = 1 << 40

// FetchTime is the time limit for a NAR of size bytes: four minutes, plus a second for each megabyte. A cache on the
// internet is rarely slower than that.
func FetchTime(size int64) time.Duration {
	return 4*time.Minute + time.Duration(size/1e6)*time.Second
}

// hashPartLen is the length of a hash part in characters of Nix's base 32, which encode 20 bytes.
const hashPartLen = 32

// maxNameLen is Nix's own limit for what follows "<hash part>-".
const maxNameLen = 211

var (
	// ErrNotFound says that a source does not have what was asked for. It is an answer, not a failure.
	ErrNotFound = errors.New("not found")
	// ErrUnreadable says that a cache has a path in a form that narbor does not read, or its archive is of no use. Nix
	// may do better.
	ErrUnreadable = errors.New("narbor cannot read it")
	// ErrCorrupt says that bytes are not what their hash, size or format promised.
	ErrCorrupt = errors.New("corrupt")
	// ErrMalformed means that an archive has the expected hash, and yet may not be given to Nix. The signer of that
	// hash is to blame, and not the sender of the bytes.
	ErrMalformed = errors.New("malformed archive")
	// ErrDamaged means that the content of a source's path does not have its NarHash. It comes with ErrNotFound.
	ErrDamaged = errors.New("damaged")
	// ErrNoSpace means that a file may not grow by what was asked for: a cap, the floor of free space, or the disk.
	ErrNoSpace = errors.New("no space")
	// ErrSlow means that a NAR would take too long, measured by [FetchTime], at the rate at which it comes. It comes
	// with ErrNotFound.
	ErrSlow = errors.New("too slow")
	// ErrTooLarge means that a NAR does not fit even into an empty spool, because of its cap.
	ErrTooLarge = errors.New("larger than the spool")
)

// HashPart is the 32 characters that begin a store path's base name, and by which Nix asks for it.
type HashPart string

// ParseHashPart accepts exactly 32 characters of Nix's base-32 alphabet.
func ParseHashPart(s string) (HashPart, error) {
	if len(s) != hashPartLen || nixbase32.ValidateString(s) != nil {
		return "", fmt.Errorf("%.40q is not a hash part: want %d characters of Nix's base 32", s, hashPartLen)
	}
	return HashPart(s), nil
}

// HashPartFromBytes is the inverse of [HashPart.Bytes]. Every value of 20 bytes is a hash part.
func HashPartFromBytes(b [20]byte) HashPart { return HashPart(nixbase32.EncodeToString(b[:])) }

// Bytes returns the 20 bytes that the hash part encodes, which is how it travels between neighbours.
func (h HashPart) Bytes() [20]byte {
	var out [20]byte
	b, err := nixbase32.DecodeString(string(h))
	if err == nil {
		copy(out[:], b)
	}
	return out
}

// Path is a store path. The zero value is no path.
type Path struct{ name string }

// ParsePath accepts an absolute store path, "/nix/store/<hash part>-<name>", with nothing below it.
func ParsePath(s string) (Path, error) {
	name, ok := strings.CutPrefix(s, Dir+"/")
	if !ok {
		return Path{}, fmt.Errorf("%.80q is not a store path: it does not begin with %s/", s, Dir)
	}
	return ParsePathName(name)
}

// ParsePathName accepts the base name of a store path, "<hash part>-<name>", if Nix accepts that name.
func ParsePathName(s string) (Path, error) {
	if len(s) < hashPartLen+2 || s[hashPartLen] != '-' {
		return Path{}, fmt.Errorf("%.80q is not a store path name: want <hash part>-<name>", s)
	}
	if _, err := ParseHashPart(s[:hashPartLen]); err != nil {
		return Path{}, err
	}
	if err := checkName(s[hashPartLen+1:]); err != nil {
		return Path{}, fmt.Errorf("%.80q is not a store path name: %w", s, err)
	}
	return Path{s}, nil
}

// checkName is Nix's rule for what follows the hash part and its dash, as version 2.34 has it. A name may begin with a
// dot; what may not be "." or ".." is all of it, or what comes before its first dash.
func checkName(name string) error {
	if len(name) > maxNameLen {
		return fmt.Errorf("its name has over %d characters", maxNameLen)
	}
	if first, _, _ := strings.Cut(name, "-"); first == "." || first == ".." {
		return fmt.Errorf("its name begins with %q", first)
	}
	for i := range len(name) {
		if !isNameByte(name[i]) {
			return fmt.Errorf("%q is not allowed in it", name[i])
		}
	}
	return nil
}

func isNameByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("+-._?=", c) >= 0
}

// String returns the absolute path, or "" for the zero Path.
func (p Path) String() string {
	if p.name == "" {
		return ""
	}
	return Dir + "/" + p.name
}

// Base returns the path without the store directory, as narinfo files name references.
func (p Path) Base() string { return p.name }

// Name returns what follows the hash part and its dash.
func (p Path) Name() string {
	if p.name == "" {
		return ""
	}
	return p.name[hashPartLen+1:]
}

// HashPart returns the path's first 32 characters. It must not be called on the zero Path.
func (p Path) HashPart() HashPart { return HashPart(p.name[:hashPartLen]) }

// IsZero says whether p is no path at all.
func (p Path) IsZero() bool { return p.name == "" }

// Hash is a SHA-256 digest: of a whole NAR (Nix's NarHash), or of a block.
type Hash [32]byte

// ParseHash accepts a SHA-256 hash in each of Nix's spellings: "sha256:" with base 16, base 32 or base 64, and
// SRI. Base 16 may be without the prefix, which is how the worker protocol sends it.
func ParseHash(s string) (Hash, error) {
	var h Hash
	if len(s) == hex.EncodedLen(len(h)) {
		if _, err := hex.Decode(h[:], []byte(s)); err == nil {
			return h, nil
		}
	}
	if !strings.HasPrefix(s, "sha256:") && !strings.HasPrefix(s, "sha256-") {
		return Hash{}, fmt.Errorf("%.80q is not a SHA-256 hash", s)
	}
	parsed, err := nixhash.ParseAny(s, nil)
	if err != nil || parsed.Algo() != nixhash.SHA256 || copy(h[:], parsed.Digest()) != len(h) {
		return Hash{}, fmt.Errorf("%.80q is not a SHA-256 hash", s)
	}
	return h, nil
}

// String returns "sha256:" and the digest in base 32, as narinfo files and fingerprints have it.
func (h Hash) String() string { return "sha256:" + h.Base32() }

// Base32 returns the digest alone in Nix's base 32: 52 characters.
func (h Hash) Base32() string { return nixbase32.EncodeToString(h[:]) }

// CID returns the content address: CIDv1, codec raw, multihash sha2-256.
func (h Hash) CID() cid.Cid {
	mh, err := multihash.Encode(h[:], multihash.SHA2_256)
	if err != nil { // only for an unknown code or a wrong length, and both are fixed here
		panic(err)
	}
	return cid.NewCidV1(cid.Raw, mh)
}

// Info is a claim about a store path: what Nix's database, a narinfo file or a neighbour says, not yet checked.
type Info struct {
	Path       Path
	NarHash    Hash
	NarSize    int64  // bytes; 1 to [MaxNarSize]
	References []Path // sorted, without duplicates; may hold Path itself
	Deriver    Path   // zero if unknown; no signature covers it
	Signatures []string
	CA         string // Nix's content address, "" if none; no signature covers it
	// Ultimate is set by this machine's Nix store alone, for paths that its database calls "ultimate": they were built
	// here. It is part of no claim text.
	Ultimate bool
	// Fetched is set by this machine's Nix store alone, for paths with a content address that its database does not
	// tell from what Nix fetches by a hash known before. It is part of no claim text.
	Fetched bool
	// Offered is set for paths with a signature that a neighbour has offered, Git for trees of a git repository. They
	// are part of no claim text.
	Offered, Git bool
}

// Manifest lists the content addresses of a NAR's blocks in order: a neighbour's hint, never trusted.
type Manifest []Hash

// NumBlocks returns how many blocks a NAR of size bytes has.
func NumBlocks(size int64) int { return int((size + BlockSize - 1) / BlockSize) }

// BlockLen returns the length in bytes of block i of a NAR of size bytes; i must be in [0, NumBlocks(size)).
func BlockLen(size int64, i int) int { return int(min(BlockSize, size-int64(i)*BlockSize)) }

// A Source knows store paths and can produce their archives. All methods may be called concurrently.
type Source interface {
	// Info returns what the source says of the store path with that hash part. The error is ErrNotFound (or
	// wraps it) if it has none; any other error means that the source could not be asked.
	Info(ctx context.Context, hp HashPart) (Info, error)
	// NAR opens the archive of a path as Info described it. The caller closes it. Its bytes are unchecked:
	// the caller hashes them before it passes them on. The path is kept from garbage collection until then where
	// the source can do so. The error wraps ErrNotFound if the path has gone, and ErrCorrupt if its archive
	// cannot have info's NarSize.
	NAR(ctx context.Context, info Info) (NAR, error)
}

// A NAR is an open archive that can be read at any offset, concurrently. A read of a file that has vanished or
// shrunk since is an error, never io.EOF before Size.
type NAR interface {
	io.ReaderAt
	io.Closer
	// Size is the archive's length in bytes.
	Size() int64
}

// InfoLately returns what a source says of a hash part, or has said within the last second, if it remembers that: it
// has a method InfoLately. So it is asked once for a request that needs the answer in several places.
func InfoLately(ctx context.Context, src Source, hp HashPart) (Info, error) {
	if s, ok := src.(interface {
		InfoLately(ctx context.Context, hp HashPart) (Info, error)
	}); ok {
		return s.InfoLately(ctx, hp)
	}
	return src.Info(ctx, hp)
}

// Suspect has the path of a claim read and checked soon, if the source can do so: it has a method Suspect(Info).
func Suspect(src Source, info Info) {
	if s, ok := src.(interface{ Suspect(info Info) }); ok {
		s.Suspect(info)
	}
}
