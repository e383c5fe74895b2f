package integration_test

import (
	"database/sql"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	_ "modernc.org/sqlite"

	"narbor/integration/corpus"
	"narbor/integration/lan"
	"narbor/store"
)

// Nix has asked for paths before the neighbour that has them came, and remembers that narbor does not have them. After
// `narbor refresh` it asks again, while its daemon runs; what it remembers of another substituter stays.
func TestRefreshLetsNixAskAgain(t *testing.T) {
	nixes := nixes(t)
	w := newWorld(t)
	c := w.corpus(corpus.Small())
	lone := withoutReferences(c.Infos)
	if len(lone) < 3 {
		t.Fatalf("%d paths have no references, want 3", len(lone))
	}
	url := w.cacheOf(c, lone[0])
	for _, nix := range nixes {
		t.Run(nix.Version, func(t *testing.T) {
			w := w
			w.T = t
			bob := w.host(lan.HostConfig{Name: "bob-" + nix.Version, System: nix.System}, "substituters = "+lan.Substituter+" "+url)
			defer func() { w.must(w.lan.Remove(bob)) }()
			w.start(bob)
			w.realise(bob, lone[0].Path.String()) // from the other substituter
			for _, info := range lone[1:3] {
				if said, err := bob.Realise(w.ctx, info.Path.String()); err == nil {
					t.Fatalf("%s is here, and no machine had it: %s", info.Path, said)
				}
			}
			before := cacheRows(w, bob)
			alice, _ := w.sharing("alice-"+nix.Version, c)
			defer func() { w.must(w.lan.Remove(alice)) }()
			w.neighbours(bob, 1)
			wanted := lone[1].Path.String()
			if _, err := bob.Realise(w.ctx, wanted); err == nil {
				t.Error("Nix has forgotten by itself that narbor did not have the path")
			}

			said := w.refresh(bob, "--new-neighbours")
			after := cacheRows(w, bob)
			t.Logf("%s rows before %v, after %v", said, before, after)
			if got := after[url]; got != before[url] {
				t.Errorf("rows of the other substituter: %v, want %v as before", got, before[url])
			}
			if n := before[lan.Substituter].negative; n < 3 {
				t.Errorf("%d negative rows about narbor, want 3", n)
			}
			w.realise(bob, wanted)
			if got := cacheRows(w, bob)[lan.Substituter]; got.positive != 1 {
				t.Errorf("rows about narbor: %+v, want a positive one", got)
			}
			w.refresh(bob)
			if got := cacheRows(w, bob)[lan.Substituter]; got.positive != 1 || got.negative != 0 {
				t.Errorf("rows about narbor after refresh: %+v, want a positive one alone", got)
			}
		})
	}
}

// withoutReferences returns those that refer to no other.
func withoutReferences(infos []store.Info) (lone []store.Info) {
	for _, info := range infos {
		if len(slices.DeleteFunc(slices.Clone(info.References), func(p store.Path) bool { return p == info.Path })) == 0 {
			lone = append(lone, info)
		}
	}
	return lone
}

// refresh runs narbor refresh as root, and returns its output.
func (w world) refresh(h *lan.Host, args ...string) string {
	w.Helper()
	said, err := h.Run(w.ctx, narbor, append([]string{"refresh", "--socket", "/run/narbor/narbor.sock"}, args...)...)
	w.must(err)
	return said
}

// cached is how many rows there are about a substituter.
type cached struct{ positive, negative int }

// cacheRows returns how many rows a host's narinfo cache has about each substituter, positive and negative.
func cacheRows(w world, h *lan.Host) map[string]cached {
	w.Helper()
	out, err := h.Run(w.ctx, "find", "/root/.cache/nix", "-name", "binary-cache-v*.sqlite")
	w.must(err)
	text, err := h.ReadFile(strings.TrimSpace(out))
	w.must(err)
	file := filepath.Join(w.TempDir(), "copy.sqlite")
	w.must(os.WriteFile(file, []byte(text), 0o600))
	db, err := sql.Open("sqlite", file)
	w.must(err)
	defer db.Close()
	rows, err := db.Query("select BinaryCaches.url, sum(present), sum(1 - present) from NARs, BinaryCaches where cache = id group by id")
	w.must(err)
	defer rows.Close()
	all := map[string]cached{}
	for rows.Next() {
		var url string
		var n cached
		w.must(rows.Scan(&url, &n.positive, &n.negative))
		all[url] = n
	}
	w.must(rows.Err())
	return all
}

// cacheOf adds a machine with an nginx that serves one path of a corpus.
func (w world) cacheOf(c *corpus.Corpus, info store.Info) string {
	w.Helper()
	h, err := w.lan.Add(lan.HostConfig{Name: "upstream", Binds: map[string]string{"mnt": c.Cache}})
	w.must(err)
	hp := string(info.Path.HashPart())
	_, err = h.Run(w.ctx, "sh", "-c", `mkdir -p /srv/cache/nar && cd /mnt && cp nix-cache-info "$0.narinfo" /srv/cache &&
		cp "$(sed -n 's/^URL: //p' "$0.narinfo")" /srv/cache/nar`, hp)
	w.must(err)
	_, url, err := h.StartNginx("/srv/cache")
	w.must(err)
	return url
}
