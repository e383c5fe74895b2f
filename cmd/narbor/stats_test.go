package main

import (
	"path/filepath"
	"testing"
	"time"

	"narbor/cmd/narbor/control"
	"narbor/narserve/stats"
)

// The accounts of the sending peer have the paths that a neighbour fetched, by peer and by package.
func TestAccountsSayWhatNeighboursGot(t *testing.T) {
	cacheDir, socket := t.TempDir(), filepath.Join(t.TempDir(), "s.sock")
	top, key := makeClosure(t, cacheDir)
	st := startedAt(t, socket, "--cache-dir", cacheDir, "--trusted-key", key)
	if out, errs, err := narbor(t.Context(), "fetch", top.Path.String(), "--to", t.TempDir(), "--peer", peerArg(t, st), "--no-mdns",
		"--trusted-key", key); err != nil {
		t.Fatalf("fetch = %v\n%s%s", err, out, errs)
	}
	var got stats.Account
	if err := (control.Client{Paths: []string{socket}, Timeout: control.Timeout}).Get(t.Context(), "/stats", &got); err != nil {
		t.Fatal(err)
	}
	size := top.NarSize + top.NarSize // both files are of 350,000 bytes
	if sum := got.Sum(1); got.Schema != 1 || sum.Sent != size {
		t.Errorf("schema %d; sent %d bytes, want %d", got.Schema, sum.Sent, size)
	}
	if len(got.Peers) != 1 || got.Peers[0].Sent != size || len(got.Names) != 2 || got.Names[0].Sent != size/2 ||
		time.Since(got.Peers[0].Last) > time.Hour {
		t.Errorf("by peer %+v, by name %+v", got.Peers, got.Names)
	}
}
