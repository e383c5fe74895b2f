package doctor

import (
	"os"
	"path/filepath"
	"testing"

	"narbor/store/rebase"
)

func TestProfileWithoutOldGenerationsIsFound(t *testing.T) {
	for name, c := range map[string]struct {
		links []string
		want  string
	}{
		"no profile":                {nil, ""},
		"a first generation":        {[]string{"system-1-link", "default-1-link"}, ""},
		"older generations":         {[]string{"system-41-link", "system-42-link"}, ""},
		"older ones are deleted":    {[]string{"system-42-link", "default-1-link"}, "system"},
		"a user's":                  {[]string{"per-user/ada/profile-7-link", "system-1-link"}, "per-user/ada/profile"},
		"a name with a hyphen":      {[]string{"my-tools-3-link"}, "my-tools"},
		"what is no generation":     {[]string{"system-x-link", "-link", "odd-link"}, ""},
		"one of two is without any": {[]string{"a-1-link", "a-2-link", "b-9-link"}, "b"},
	} {
		dir := t.TempDir()
		for _, link := range c.links {
			link = filepath.Join(dir, link)
			if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink("/nix/store/x", link); err != nil {
				t.Fatal(err)
			}
		}
		want := c.want
		if want != "" {
			want = filepath.Join(dir, want)
		}
		if got := withoutOldGenerations(dir); got != want {
			t.Errorf("%s: withoutOldGenerations = %q, want %q", name, got, want)
		}
	}
}

func TestGarbageCollectionBeforeAnUpdateIsTold(t *testing.T) {
	for name, c := range map[string]struct {
		n       rebase.Recent
		profile string
		told    bool
	}{
		"nothing was wanted":           {rebase.Recent{}, "system", false},
		"few paths":                    {rebase.Recent{Wanted: 49, NoOld: 49}, "system", false},
		"other versions are here":      {rebase.Recent{Wanted: 100, NoOld: 89}, "system", false},
		"older generations are there":  {rebase.Recent{Wanted: 100, NoOld: 100}, "", false},
		"older generations are gone":   {rebase.Recent{Wanted: 50, NoOld: 45}, "system", true},
		"all is new, and they are too": {rebase.Recent{Wanted: 4096, NoOld: 4096}, "system", true},
	} {
		f := rebuildsFinding(c.n, c.profile)
		if told := f.Severity == severityInfo; told != c.told || told != (f.Fix != "") {
			t.Errorf("%s: %+v, want that a garbage collection is told: %t", name, f, c.told)
		}
	}
}
