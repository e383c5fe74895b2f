package demo

import (
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"strings"

	"github.com/nix-community/go-nix/pkg/nar"
	"github.com/nix-community/go-nix/pkg/narinfo/signature"
	"github.com/nix-community/go-nix/pkg/nixbase32"

	"narbor/store"
	"narbor/store/bincache"
	"narbor/trust"
)

const keyName = "narbor-demo-1"

// A corpus is a signed closure in a directory in Nix's binary-cache layout.
type corpus struct {
	dir   string
	key   string       // public, as in trusted-public-keys
	paths []store.Info // each after those it refers to; the last one refers to all others, directly or not
	bytes int64        // of all NARs
}

// newCorpus writes a closure of count packages, together about total bytes, and signs it with a key that is not kept.
func newCorpus(dir string, count int, total int64) (*corpus, error) {
	secret, public, err := signature.GenerateKeypair(keyName, rand.Reader)
	if err != nil {
		return nil, err
	}
	cache, err := bincache.Open(dir, dir)
	if err != nil {
		return nil, err
	}
	c := &corpus{dir: dir, key: public.String()}
	scratch := dir + ".package"
	defer os.Remove(scratch)
	for i := range count {
		name := fmt.Sprintf("demo-library-%d", i+1)
		if i == count-1 {
			name = "demo-program"
		}
		// Sizes as in a real closure: few packages hold most of the bytes. 2(i+1)/(count(count+1)) sums up to 1.
		size := total * 2 * int64(i*7%count+1) / int64(count*(count+1))
		info, err := writePackage(scratch, name, size, c.paths)
		if err != nil {
			return nil, err
		}
		sig, err := secret.Sign(rand.Reader, trust.Fingerprint(info))
		if err != nil {
			return nil, err
		}
		info.Signatures = []string{sig.String()}
		if err := addFile(cache, info, scratch); err != nil {
			return nil, err
		}
		c.paths, c.bytes = append(c.paths, info), c.bytes+info.NarSize
	}
	return c, nil
}

func addFile(cache *bincache.Cache, info store.Info, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	return cache.Add(info, f)
}

// writePackage writes the NAR of a package with one program of size bytes, which refers to two of the packages before
// it, and returns its description without signature.
func writePackage(file, name string, size int64, before []store.Info) (info store.Info, err error) {
	path, err := store.ParsePathName(randomHashPart() + "-" + name)
	if err != nil {
		return info, err
	}
	info.Path = path
	for _, old := range before[max(0, len(before)-2):] {
		info.References = append(info.References, old.Path)
	}
	store.SortPaths(info.References)
	f, err := os.Create(file)
	if err != nil {
		return info, err
	}
	defer f.Close()
	hash := sha256.New()
	if err := writeNAR(io.MultiWriter(f, hash), name, size, info.References); err != nil {
		return info, err
	}
	st, err := f.Stat()
	if err != nil {
		return info, err
	}
	info.NarHash, info.NarSize = store.Hash(hash.Sum(nil)), st.Size()
	return info, nil
}

func randomHashPart() string {
	var b [20]byte
	rand.Read(b[:])
	return nixbase32.EncodeToString(b[:])
}

// writeNAR writes an archive of /bin/NAME, a file that names the references and is filled up to size bytes. Half of the
// filling can be compressed, as in real programs.
func writeNAR(w io.Writer, name string, size int64, references []store.Path) error {
	var text strings.Builder
	for _, r := range references {
		fmt.Fprintln(&text, r)
	}
	size = max(size, int64(text.Len()))
	archive, err := nar.NewWriter(w)
	if err != nil {
		return err
	}
	for _, h := range []nar.Header{{Path: "/", Type: nar.TypeDirectory}, {Path: "/bin", Type: nar.TypeDirectory},
		{Path: "/bin/" + name, Type: nar.TypeRegular, Executable: true, Size: size}} {
		if err := archive.WriteHeader(&h); err != nil {
			return err
		}
	}
	if _, err := io.WriteString(archive, text.String()); err != nil {
		return err
	}
	if _, err := io.CopyN(archive, newFilling(), size-int64(text.Len())); err != nil {
		return err
	}
	return archive.Close()
}

// filling is a [io.Reader] of random bytes, half of which are zeros.
type filling struct{ random *mathrand.ChaCha8 }

func newFilling() filling {
	var seed [32]byte
	rand.Read(seed[:])
	return filling{mathrand.NewChaCha8(seed)}
}

func (f filling) Read(p []byte) (int, error) {
	const run = 64
	for i := 0; i < len(p); i += 2 * run {
		f.random.Read(p[i:min(i+run, len(p))])
		clear(p[min(i+run, len(p)):min(i+2*run, len(p))])
	}
	return len(p), nil
}

// copyDamaged copies the corpus to dir and changes bytes in the middle of every second NAR; narinfos keep their
// signatures.
func (c *corpus) copyDamaged(dir string) (damaged int, err error) {
	if err := os.CopyFS(dir, os.DirFS(c.dir)); err != nil {
		return 0, err
	}
	for i, info := range c.paths {
		if i%2 == 0 {
			continue
		}
		f, err := os.OpenFile(filepath.Join(dir, "nar", info.NarHash.Base32()+".nar"), os.O_WRONLY, 0)
		if err != nil {
			return 0, err
		}
		_, err = f.WriteAt([]byte("malware"), info.NarSize/2)
		if err := f.Close(); err != nil {
			return 0, err
		}
		if err != nil {
			return 0, err
		}
		damaged++
	}
	return damaged, nil
}
