package integration_test

import (
	"strings"
	"testing"
	"time"

	"narbor/integration/corpus"
	"narbor/integration/lan"
)

// A store that came without signatures is shared once a neighbour has offered the signed narinfos: the neighbour downloads no
// archive, and a third machine needs no upstream. A path with the right name and another content is not shared.
func TestImportedStoreIsSharedAfterOffers(t *testing.T) {
	w := newWorld(t)
	c := w.corpus(corpus.Small())
	holder := w.host(lan.HostConfig{Name: "holder", Nix: c.Nix}, "substituters =")
	nginx, url := w.upstream(c)
	var paths []string
	for _, info := range c.Infos {
		paths = append(paths, info.Path.String())
	}
	all := strings.Join(paths, " ")
	_, err := holder.Run(w.ctx, "sh", "-ec", "export NIX_REMOTE=; nix-store --export "+all+" > /tmp/image && nix-store --delete "+all+
		" >/dev/null && nix-store --import < /tmp/image >/dev/null && rm /tmp/image")
	w.must(err)
	poisoned := w.poison(holder, c)
	db := w.database(holder)
	if n := w.count(db, "select count(*) from ValidPaths"); n < len(c.Infos) {
		t.Fatalf("%d paths were imported, want %d", n, len(c.Infos))
	}
	if n := w.count(db, "select count(*) from ValidPaths where coalesce(sigs, '') != '' or ultimate = 1"); n > 0 {
		t.Fatalf("%d paths have a signature or were built here, want none", n)
	}
	served := w.start(holder)

	third := w.host(lan.HostConfig{Name: "third"}, "substituters = "+lan.Substituter)
	w.start(third)
	w.neighbours(third, 1)
	unsigned, shared := map[string]string{}, map[string]string{}
	for _, p := range paths {
		unsigned[p] = "imported"
	}
	w.probe(third, nil, unsigned)

	asker := w.host(lan.HostConfig{Name: "asker"}, "substituters = "+lan.Substituter)
	running := w.start(asker, "--upstream", url)
	w.neighbours(asker, 2)
	w.realise(asker, c.Top.String())
	w.whole(asker, c, c.Top.String())
	w.must(asker.Verify(w.ctx))
	if nars := w.nars(nginx); len(nars) > 1+len(c.Infos)/10 {
		t.Errorf("%d archives of %d came from the upstream, want the poisoned one, and few for which the offer was late", len(nars),
			len(c.Infos))
	} else {
		t.Logf("%d archives of %d came from the upstream", len(nars), len(c.Infos))
	}

	// The signatures outlast a restart of the holder. The asker, which shares what it has fetched, is gone.
	w.must(running.Terminate(15 * time.Second))
	w.must(served.Terminate(15 * time.Second))
	w.start(holder)
	w.neighbours(third, 1)
	for p := range unsigned {
		if p != poisoned {
			shared[p] = "imported, with an offered signature"
		}
	}
	w.probe(third, shared, map[string]string{poisoned: "poisoned"})
	said, err := holder.Narbor(w.ctx, narbor, "share", "explain", c.Top.String())
	if err != nil || !strings.Contains(said, "verified, not in the database but offered by neighbour") {
		t.Errorf("share explain: %v, %s", err, said)
	}
	if said, err := holder.Narbor(w.ctx, narbor, "share", "explain", poisoned); err == nil || !strings.Contains(said, "no key") {
		t.Errorf("share explain of the poisoned path: %v, %s", err, said)
	}
	w.must(holder.Verify(w.ctx))
}

// poison replaces the content of a path of a host, and its row in the database, and returns the path.
func (w world) poison(h *lan.Host, c *corpus.Corpus) string {
	w.Helper()
	for _, info := range c.Infos {
		if info.Path == c.Top || len(references(info)) > 0 {
			continue
		}
		p := info.Path.String()
		_, err := h.Run(w.ctx, "sh", "-ec", `export NIX_REMOTE=; chmod -R u+w $0
			if test -d $0; then echo evil > $0/evil; else echo evil > $0; fi
			printf '%s\n\n0\n' $0 | nix-store --register-validity --reregister`, p)
		w.must(err)
		hashes, err := h.Hashes(w.ctx, p)
		w.must(err)
		if hashes[0] == info.NarHash.String() {
			w.Fatalf("%s was not changed", p)
		}
		return p
	}
	w.Fatal("each path of the corpus has references")
	return ""
}
