package offered_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"narbor/store"
	"narbor/store/offered"
)

// claim returns a claim about a path with a hash part that is made of a number.
func claim(t testing.TB, n int) store.Info {
	t.Helper()
	p, err := store.ParsePathName(fmt.Sprintf("%032d-path", n))
	if err != nil {
		t.Fatal(err)
	}
	return store.Info{Path: p, NarHash: store.Hash{byte(n)}, NarSize: 1}
}

func open(t testing.TB, file string) *offered.Book {
	t.Helper()
	b, err := offered.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func keep(t testing.TB, b *offered.Book, info store.Info, sigs ...string) {
	t.Helper()
	if err := b.Keep(info, sigs, "peer"); err != nil {
		t.Fatal(err)
	}
}

func TestSignatureIsAddedToWhatTheSourceSays(t *testing.T) {
	b := open(t, "")
	info := claim(t, 1)
	info.Signatures = []string{"own-1:AA"}
	keep(t, b, info, "cache-1:BB", "own-1:AA")
	built := info
	built.Ultimate = true
	other := info
	other.NarHash = store.Hash{9}
	for name, c := range map[string]struct {
		info store.Info
		want []string
	}{
		"the path":                     {info, []string{"own-1:AA", "cache-1:BB"}},
		"built here":                   {built, []string{"own-1:AA"}},
		"with another NarHash":         {other, []string{"own-1:AA"}},
		"another path":                 {claim(t, 2), nil},
		"with as many as there may be": {info.WithSignatures(slices.Repeat([]string{"x-1:CC"}, 64)), slices.Repeat([]string{"x-1:CC"}, 64)},
	} {
		mem := new(store.Mem)
		mem.Add(c.info, []byte{0})
		got, err := b.Source(mem).Info(t.Context(), c.info.Path.HashPart())
		if err != nil || !slices.Equal(got.Signatures, c.want) {
			t.Errorf("%s: signatures are %q, %v, want %q", name, got.Signatures, err, c.want)
		}
	}
	if len(info.Signatures) != 1 {
		t.Errorf("the source's own claim was changed to %q", info.Signatures)
	}
	if _, err := b.Source(new(store.Mem)).Info(t.Context(), info.Path.HashPart()); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Info of a path that is gone = %v, want ErrNotFound", err)
	}
}

func TestBookOutlastsTheProgramAndIsBounded(t *testing.T) {
	const most = 8192
	file := filepath.Join(t.TempDir(), "offered.json")
	b := open(t, file)
	for n := range most {
		keep(t, b, claim(t, n), "cache-1:BB")
	}
	keep(t, b, claim(t, 0), "cache-2:CC") // the youngest now
	keep(t, b, claim(t, most), "cache-1:BB")
	if err := b.Save(); err != nil {
		t.Fatal(err)
	}
	b = open(t, file)
	for n, want := range map[int]bool{0: true, 1: false, 2: true, most: true} {
		r, ok := b.Of(claim(t, n))
		if ok != want || ok && (r.From != "peer" || time.Since(r.At) > time.Hour) {
			t.Errorf("record %d = %+v, %t, want one: %t", n, r, ok, want)
		}
	}
	if r, _ := b.Of(claim(t, 0)); !slices.Equal(r.Signatures, []string{"cache-2:CC"}) {
		t.Errorf("record 0 has %q, want what was kept last", r.Signatures)
	}
}

func TestBrokenRecordsAreLeftOut(t *testing.T) {
	file := filepath.Join(t.TempDir(), "offered.json")
	good := claim(t, 1)
	record := func(path, hash string, sigs ...string) string {
		return fmt.Sprintf(`{"path":%q,"narHash":%q,"signatures":["%s"],"from":"x","at":"2020-01-01T00:00:00Z"}`, path, hash,
			strings.Join(sigs, `","`))
	}
	hash := good.NarHash.String()
	text := strings.Join([]string{record("/etc/passwd", hash, "a:AA"), record(claim(t, 2).Path.String(), "sha256:x", "a:AA"),
		record(claim(t, 3).Path.String(), hash, "a:AA", "b:AA", "c:AA", "d:AA", "e:AA"),
		record(claim(t, 4).Path.String(), hash, strings.Repeat("a", 600)), record(claim(t, 5).Path.String(), hash, `a\nSig: b`),
		`{"path":"` + claim(t, 6).Path.String() + `","narHash":"` + hash + `"}`, record(good.Path.String(), hash, "a:AA")}, ",")
	if err := os.WriteFile(file, []byte("["+text+"]"), 0o600); err != nil {
		t.Fatal(err)
	}
	b, err := offered.Open(file)
	if err == nil || strings.Count(err.Error(), file) != 6 {
		t.Errorf("Open = %v, want six complaints", err)
	}
	if _, ok := b.Of(good); !ok {
		t.Error("a good record beside broken ones is lost")
	}
	keep(t, b, claim(t, 7), "a:AA")
	if err := b.Save(); err != nil {
		t.Fatal(err)
	}
	if _, err := offered.Open(file); err != nil {
		t.Errorf("broken records are kept: %v", err)
	}
	if err := os.WriteFile(file, []byte("[{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := offered.Open(file); err == nil || b.Keep(good, []string{"a:AA"}, "x") != nil {
		t.Errorf("Open of half a file = %v, want an error and an empty book", err)
	}
}

func TestFileIsWrittenAfterAWhile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "offered.json")
	synctest.Test(t, func(t *testing.T) {
		b := open(t, file)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- b.Run(ctx, func(err error) { t.Error(err) }) }()
		written := func(n int) bool {
			_, ok := open(t, file).Of(claim(t, n))
			return ok
		}
		keep(t, b, claim(t, 1), "cache-1:BB")
		time.Sleep(4 * time.Second) // simulated
		keep(t, b, claim(t, 2), "cache-1:BB")
		synctest.Wait()
		if written(1) {
			t.Error("the file is written for each change")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if !written(1) || !written(2) {
			t.Error("the file is not written after a while")
		}
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run = %v", err)
		}
	})
}

func TestSaveWritesWhatWasKeptSince(t *testing.T) {
	file := filepath.Join(t.TempDir(), "offered.json")
	b := open(t, file)
	if err := b.Save(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file of an empty book: %v", err)
	}
	keep(t, b, claim(t, 1), "cache-1:BB")
	if err := os.Mkdir(file, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := b.Save(); err == nil {
		t.Error("a directory was replaced")
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := b.Save(); err != nil {
		t.Fatal(err)
	}
	if _, ok := open(t, file).Of(claim(t, 1)); !ok {
		t.Error("the record that could not be saved is lost")
	}
}
