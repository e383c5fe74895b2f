package main

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"narbor/cmd/narbor/exit"
)

// TestArchiveLargerThanTheSpoolIsNotOffered has archives of 350,000 bytes, and a spool of 300.
func TestArchiveLargerThanTheSpoolIsNotOffered(t *testing.T) {
	cacheDir, socket := t.TempDir(), filepath.Join(t.TempDir(), "s.sock")
	top, key := makeClosure(t, cacheDir)
	st := startedAt(t, socket, "--cache-dir", cacheDir, "--trusted-key", key, "--spool-size", "300kB")
	resp, err := http.Get("http://" + st.HTTP[0] + "/" + string(top.Path.HashPart()) + ".narinfo")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusNotFound {
		t.Errorf("narinfo: %s, want 404", resp.Status)
	}
	for _, c := range []struct {
		exit int
		args []string
	}{{exit.NotFound, []string{"why", top.Path.String()}}, {exit.Degraded, []string{"status"}}} {
		out, _, err := narbor(t.Context(), append(c.args, "--socket", socket)...)
		if exit.Code(err) != c.exit || !strings.Contains(out, "--spool-size") {
			t.Errorf("%s = %v, want exit code %d and a word of --spool-size\n%s", c.args[0], err, c.exit, out)
		}
	}
}
