// Package corpus makes binary caches with realistic contents: every store path is an unpacked Debian package, the
// packages' dependencies are the references, and every path is signed by a key of the corpus. Real Nix makes the
// archives and checks them.
//
// A corpus is built once and kept below the user's cache directory; that needs root, Nix, apt-get and the network
// and takes some minutes. Opening it again needs none of these.
package corpus

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"narbor/store"
)

// version is part of the name of a kept corpus. A change of the build needs a new version.
const version = "1"

// KeyName is the name of the key that signs every corpus.
const KeyName = "corpus.narbor.test-1"

// A Spec describes a corpus. Two with the same Name must be equal.
type Spec struct {
	Name  string
	Seeds []string // Debian packages, which are added with all of their dependencies
	// MaxInstalled is the maximum installed size in KiB; larger packages, other than seeds, are left out.
	MaxInstalled int64
	Random       int64 // bytes of a store path made of noise; 0 is none
	Mixed        int64 // bytes of a store path made of archives of programs, about 2:1 compressible; 0 is none

	// Minimum sizes of the result. A smaller corpus is an error, because it would be too small for its tests.
	MinPaths         int
	MinBytes, MinNar int64
}

// Small is quick to fetch, and yet has references and archives of many blocks.
func Small() Spec {
	return Spec{Name: "small", Seeds: []string{"curl", "python3"}, MaxInstalled: 8 << 10,
		MinPaths: 30, MinBytes: 30 << 20, MinNar: 5 << 20}
}

// First has over 200 paths and 300 MB, with a file of over 150 MB in it.
func First() Spec {
	return Spec{Name: "first", Seeds: []string{"chromium", "vlc", "gimp", "evince"}, MaxInstalled: 2000,
		MinPaths: 200, MinBytes: 300e6, MinNar: 150e6}
}

// Medium is like the closure of a desktop program with all its libraries.
func Medium() Spec {
	return Spec{Name: "medium", MaxInstalled: 2000,
		Seeds:    []string{"chromium", "git", "vlc", "gimp", "evince", "nautilus", "gnome-terminal", "dolphin"},
		MinPaths: 380, MinBytes: 450e6, MinNar: 150e6}
}

// Large is like a whole desktop system.
func Large() Spec {
	return Spec{Name: "large", MaxInstalled: 23 << 10,
		Seeds: []string{"chromium", "libreoffice", "gimp", "vlc", "inkscape", "kde-plasma-desktop", "emacs", "evolution",
			"gnome-terminal", "nautilus", "dolphin", "evince", "git"},
		MinPaths: 900, MinBytes: 1600e6, MinNar: 150e6}
}

// Noise is a single archive of the given size that cannot be compressed.
func Noise(size int64) Spec {
	return Spec{Name: "noise-" + strconv.FormatInt(size, 10), Random: size, MinPaths: 1, MinBytes: size, MinNar: size}
}

// Mixed is a single archive of the given size that compresses about as well as store paths do.
func Mixed(size int64) Spec {
	return Spec{Name: "mixed-" + strconv.FormatInt(size, 10), Mixed: size, MinPaths: 1, MinBytes: size, MinNar: size}
}

// A Corpus is a signed closure on disk. Its directories must not be written to.
type Corpus struct {
	Cache string       // a directory in Nix's binary-cache layout, not compressed
	Nix   string       // the contents of /nix on a machine that has fetched the whole corpus
	Infos []store.Info // sorted by path
	Top   store.Path   // refers to all others, directly or indirectly
}

// Open returns the corpus, and builds it first if it is not kept. Open calls progress at the start of each long step.
func Open(ctx context.Context, spec Spec, progress func(string)) (*Corpus, error) {
	return open(ctx, spec, spec.Name, progress, func(b *builder) (store.Path, error) { return b.addAll(ctx) })
}

// open returns the corpus that is kept under a name, and builds it first of what add adds if it is not kept.
func open(ctx context.Context, spec Spec, name string, progress func(string), add func(*builder) (store.Path, error)) (*Corpus, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return nil, err
	}
	base = filepath.Join(base, "narbor-corpus")
	if err := os.MkdirAll(base, 0o755); err != nil {
		return nil, err
	}
	dir := filepath.Join(base, name+"-v"+version)
	unlock, err := lock(dir + ".lock")
	if err != nil {
		return nil, err
	}
	defer unlock()
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		if err := build(ctx, spec, dir, progress, add); err != nil {
			return nil, fmt.Errorf("corpus %s: %w", name, err)
		}
	}
	return load(spec, dir)
}

// lock prevents two test programs from building the same corpus. The kernel unlocks when a program ends.
func lock(name string) (unlock func(), err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", name, err), f.Close())
	}
	return func() { f.Close() }, nil
}

func load(spec Spec, dir string) (*Corpus, error) {
	c := &Corpus{Cache: filepath.Join(dir, "cache"), Nix: filepath.Join(dir, "nix")}
	names, err := filepath.Glob(filepath.Join(c.Cache, "*.narinfo"))
	if err != nil {
		return nil, err
	}
	var bytes, biggest int64
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		info, err := store.ParseInfo(string(text))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		c.Infos = append(c.Infos, info)
		bytes += info.NarSize
		biggest = max(biggest, info.NarSize)
		if info.Path.Name() == topName(spec) {
			c.Top = info.Path
		}
	}
	slices.SortFunc(c.Infos, func(a, b store.Info) int { return strings.Compare(a.Path.Base(), b.Path.Base()) })
	if len(c.Infos) < spec.MinPaths || bytes < spec.MinBytes || biggest < spec.MinNar || c.Top.IsZero() {
		return nil, fmt.Errorf("corpus %s has %d paths of %d bytes, the biggest %d: less than wanted; was Debian's archive all there?",
			spec.Name, len(c.Infos), bytes, biggest)
	}
	return c, nil
}

func topName(spec Spec) string { return "corpus-" + spec.Name }

// Bytes is the size of all archives together.
func (c *Corpus) Bytes() int64 {
	var n int64
	for _, info := range c.Infos {
		n += info.NarSize
	}
	return n
}

// Biggest is the path with the largest archive.
func (c *Corpus) Biggest() store.Info {
	return slices.MaxFunc(c.Infos, func(a, b store.Info) int { return int(a.NarSize - b.NarSize) })
}

// privateKey is not secret: it must be the same wherever a corpus is built, and is trusted in tests only.
func privateKey() ed25519.PrivateKey {
	seed := sha256.Sum256([]byte("the key that signs narbor's test corpora"))
	return ed25519.NewKeyFromSeed(seed[:])
}

// PublicKey is the corpora's key in the form of Nix's trusted-public-keys.
func PublicKey() string {
	return KeyName + ":" + base64.StdEncoding.EncodeToString(privateKey().Public().(ed25519.PublicKey))
}

// SecretKey is the corpora's key in the form of the files that Nix's secret-key-files names.
func SecretKey() string {
	return KeyName + ":" + base64.StdEncoding.EncodeToString(privateKey())
}

// Sign returns a signature of info, over the fingerprint that Nix defines (store-api.cc).
func Sign(info store.Info) string {
	refs := make([]string, len(info.References))
	for i, r := range info.References {
		refs[i] = r.String()
	}
	text := fmt.Sprintf("1;%s;%s;%d;%s", info.Path, info.NarHash, info.NarSize, strings.Join(refs, ","))
	return KeyName + ":" + base64.StdEncoding.EncodeToString(ed25519.Sign(privateKey(), []byte(text)))
}
