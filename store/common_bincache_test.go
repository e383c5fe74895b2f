package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"narbor/store"
)

// goldenCaches was made by Nix, with the script in it.
const goldenCaches = "bincache/testdata/cache"

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
