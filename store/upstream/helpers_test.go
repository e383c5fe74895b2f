package upstream_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"narbor/store"
)

// goldenCaches was made by Nix, with the script in it.
const goldenCaches = "../bincache/testdata/cache"

// cachePaths reads what the caches in dir hold out of the uncompressed one, and compares it with what Nix said.
func cachePaths(t testing.TB, dir string) (paths []sourcePath) {
	t.Helper()
	list, err := os.ReadFile(filepath.Join(dir, "paths"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(list)) {
		var p sourcePath
		base := filepath.Base(strings.Fields(line)[0])
		text, err := os.ReadFile(filepath.Join(dir, "none", base[:32]+".narinfo"))
		if err != nil {
			t.Fatal(err)
		}
		if p.info, err = store.ParseInfo(string(text)); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%s %s %d\n", p.info.Path, p.info.NarHash, p.info.NarSize); got != line {
			t.Fatalf("narinfo says %q, Nix said %q", got, line)
		}
		if p.nar, err = os.ReadFile(filepath.Join(dir, "none", "nar", p.info.NarHash.Base32()+".nar")); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, p)
	}
	return paths
}

func packXZ(t testing.TB, b []byte) []byte {
	var out bytes.Buffer
	w, err := xz.NewWriter(&out)
	if err == nil {
		_, err = w.Write(b)
		err = errors.Join(err, w.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func packZstd(t testing.TB, b []byte) []byte {
	w, err := zstd.NewWriter(nil, zstd.WithEncoderCRC(true))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	return w.EncodeAll(b, nil)
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// A sourcePath is a path that a source has: what it claims, and the archive.
type sourcePath struct {
	info store.Info
	nar  []byte
}

func testSourceInfo(t *testing.T, src store.Source, p sourcePath) {
	for range 2 { // changing what was returned must not change the source
		info, err := src.Info(t.Context(), p.info.Path.HashPart())
		if err != nil {
			t.Fatal(err)
		}
		if info.String() != p.info.String() {
			t.Fatalf("Info =\n%swant\n%s", info, p.info)
		}
		clear(info.References)
		clear(info.Signatures)
	}
}

// randomNAR returns the NAR of a file, the same for the same seed, and its hash. It has size bytes, or the few more
// that a NAR must have.
func randomNAR(seed uint64, size int) ([]byte, store.Hash) {
	contents := make([]byte, max(0, size-len(archive(file("")))))
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)})
	r.Read(contents)
	b := []byte(archive(file(string(contents))))
	return b, sha256.Sum256(b)
}

// words writes strings as an archive has them.
func words(list ...string) string {
	var b []byte
	for _, s := range list {
		b = binary.LittleEndian.AppendUint64(b, uint64(len(s)))
		b = append(b, s...)
		b = append(b, make([]byte, -len(s)&7)...)
	}
	return string(b)
}

func archive(node string) string { return words("nix-archive-1") + node }

func file(contents string) string {
	return words("(", "type", "regular", "contents", contents, ")")
}
