package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"narbor/cmd/narbor/exit"
	"narbor/store/bincache"
)

func TestFetchTakesFromTheInternetWhatNoNeighbourHas(t *testing.T) {
	dir := t.TempDir()
	top, key := makeClosure(t, dir)
	var archives atomic.Int64
	files := http.FileServer(http.Dir(dir))
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, ".narinfo") {
			archives.Add(1)
		}
		files.ServeHTTP(w, r)
	}))
	defer web.Close()
	holder := started(t, "--cache-dir", dir, "--trusted-key", key)
	absent := strings.Repeat("a", 32)
	for _, tt := range []struct {
		name, path string
		args       []string
		exit       int
		archives   int64
		says       string
	}{
		{"the internet alone", top.Path.String(), []string{"--upstream", web.URL}, 0, 2, "from the internet"},
		{"a neighbour and the internet", top.Path.String(), []string{"--upstream", web.URL, "--peer", peerArg(t, holder)}, 0, 0,
			"all there"},
		{"neither", top.Path.String(), nil, exit.NotFound, 0, ""},
		{"what neither has", absent, []string{"--upstream", web.URL, "--peer", peerArg(t, holder)}, exit.NotFound, 0, ""},
		{"what is no cache", top.Path.String(), []string{"--upstream", "s3://bucket"}, exit.Usage, 0, ""},
	} {
		archives.Store(0)
		to := t.TempDir()
		out, errs, err := narbor(t.Context(), append([]string{"fetch", tt.path, "--to", to, "--no-mdns", "--trusted-key", key},
			tt.args...)...)
		if exit.Code(err) != tt.exit || archives.Load() != tt.archives || !strings.Contains(out, tt.says) {
			t.Errorf("%s: exit code %d (%v), %d archives from the upstream, %q %s; want %d, %d and %q",
				tt.name, exit.Code(err), err, archives.Load(), out, errs, tt.exit, tt.archives, tt.says)
		}
		if tt.archives == 0 && strings.Contains(out, "the internet") {
			t.Errorf("%s: %q, want nothing from the internet", tt.name, out)
		}
		got, err := bincache.Open(to, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		if got.Has(top.Path.HashPart()) != (tt.exit == 0) || got.Has(top.References[0].HashPart()) != (tt.exit == 0) {
			t.Errorf("%s: what arrived is not what was to", tt.name)
		}
	}
}
