package corpus_test

import (
	"os"
	"os/exec"
	"slices"
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

func TestClosureIsCompleteAndSigned(t *testing.T) {
	if os.Geteuid() != 0 {
		unable(t, "building a corpus needs root")
	}
	for _, tool := range []string{"nix-store", "apt-get", "dpkg-deb"} {
		if _, err := exec.LookPath(tool); err != nil {
			unable(t, err.Error())
		}
	}
	c, err := corpus.Open(t.Context(), corpus.Small(), func(s string) { t.Log(s) })
	if err != nil {
		t.Fatal(err)
	}
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
	if !slices.ContainsFunc(c.Infos, func(i store.Info) bool { return slices.Contains(i.References, i.Path) }) {
		t.Error("no path refers to itself, as many real ones do")
	}
	t.Logf("%d paths, %d bytes, biggest %d", len(c.Infos), c.Bytes(), c.Biggest().NarSize)
}
