package corpus_test

import (
	"crypto/sha256"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"narbor/integration/corpus"
	"narbor/store"
	"narbor/trust"
)

// unable skips the test on a user's machine and fails it under CI=true.
func unable(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// buildable skips the test where a corpus cannot be built.
func buildable(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		unable(t, "building a corpus needs root")
	}
	for _, tool := range []string{"nix-store", "apt-get", "dpkg-deb"} {
		if _, err := exec.LookPath(tool); err != nil {
			unable(t, err.Error())
		}
	}
}

func TestClosureIsCompleteAndSigned(t *testing.T) {
	buildable(t)
	c, err := corpus.Open(t.Context(), corpus.Small(), func(s string) { t.Log(s) })
	if err != nil {
		t.Fatal(err)
	}
	checkClosure(t, c)
	if !slices.ContainsFunc(c.Infos, func(i store.Info) bool { return slices.Contains(i.References, i.Path) }) {
		t.Error("no path refers to itself, as many real ones do")
	}
	t.Logf("%d paths, %d bytes, biggest %d", len(c.Infos), c.Bytes(), c.Biggest().NarSize)
}

// checkClosure fails the test unless all paths of c are signed, and are the closure of its top.
func checkClosure(t *testing.T, c *corpus.Corpus) {
	t.Helper()
	keys, err := trust.ParseKeys([]string{corpus.PublicKey()})
	if err != nil {
		t.Fatal(err)
	}
	infos := map[store.Path]store.Info{}
	for _, info := range c.Infos {
		if _, err := keys.Check(info); err != nil {
			t.Errorf("Check(%s) = %v", info.Path, err)
		}
		infos[info.Path] = info
	}
	reached := map[store.Path]bool{}
	var walk func(p store.Path)
	walk = func(p store.Path) {
		reached[p] = true
		if infos[p].Path.IsZero() {
			t.Errorf("%s is referred to, but is not in the corpus", p)
		}
		for _, r := range infos[p].References {
			if !reached[r] {
				walk(r)
			}
		}
	}
	walk(c.Top)
	if len(reached) != len(c.Infos) {
		t.Errorf("%s reaches %d of %d paths", c.Top, len(reached), len(c.Infos))
	}
}

func TestRebuiltClosureDiffersInStorePathsAndATenth(t *testing.T) {
	buildable(t)
	first, second, err := corpus.OpenRebuilt(t.Context(), corpus.Small(), func(s string) { t.Log(s) })
	if err != nil {
		t.Fatal(err)
	}
	checkClosure(t, second)
	changed := second.Changed(first)
	if n := len(first.Infos); len(second.Infos) != n || len(changed) < n/11 || len(changed) > n/9 {
		t.Errorf("%d of %d paths are changed, want a tenth of %d", len(changed), len(second.Infos), n)
	}
	bySecond := map[string]store.Info{}
	for _, info := range second.Infos {
		bySecond[info.Path.Name()] = info
	}
	var names []string
	for _, info := range first.Infos {
		names = append(names, string(info.Path.HashPart()), string(bySecond[info.Path.Name()].Path.HashPart()))
	}
	replace := strings.NewReplacer(names...)
	for _, old := range first.Infos {
		rebuilt := bySecond[old.Path.Name()]
		text, err := os.ReadFile(filepath.Join(first.Cache, "nar", old.NarHash.Base32()+".nar"))
		if err != nil {
			t.Fatal(err)
		}
		same := store.Hash(sha256.Sum256([]byte(replace.Replace(string(text))))) == rebuilt.NarHash
		isChanged := slices.ContainsFunc(changed, func(i store.Info) bool { return i.Path == rebuilt.Path })
		if same == isChanged {
			t.Errorf("%s is %s with other store paths: %v, want %v", rebuilt.Path, old.Path, same, !isChanged)
		}
	}
}
