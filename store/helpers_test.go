package store_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"narbor/store"
)

func readAll(t testing.TB, n store.NAR) []byte {
	t.Helper()
	b, err := io.ReadAll(io.NewSectionReader(n, 0, n.Size()))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

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
