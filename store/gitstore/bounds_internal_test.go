package gitstore

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"narbor/store"
)

// programOf returns a git with a shell script as its program.
func programOf(t *testing.T, script string) *git {
	t.Helper()
	dir := t.TempDir()
	name := filepath.Join(dir, "program")
	if err := os.WriteFile(name, []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	g := &git{program: name, own: dir, slots: make(chan struct{}, 1)}
	t.Cleanup(func() { g.stop(true) })
	return g
}

// emptyTrees says of each ID that it is an empty tree.
const emptyTrees = `while read -r id; do printf '%s tree 0\n\n' "$id"; done`

func idOf(s string) oid { return oid(strings.Repeat(s, 20)) }

// Close ends reads that have begun, so that Run can end though a disk does not answer.
func TestCloseEndsAProcessThatIsStuck(t *testing.T) {
	g := programOf(t, "exec sleep 1000")
	ended := make(chan error, 1)
	read := func() error { return g.read([]oid{idOf("a")}, query{kind: "tree", most: 100}) }
	go func() { ended <- read() }()
	for busy := false; !busy; {
		g.mu.Lock()
		busy = len(g.busy) > 0
		g.mu.Unlock()
	}
	g.stop(true)
	select {
	case err := <-ended:
		if err == nil {
			t.Error("read is no error after Close")
		}
	case <-time.After(objectTimeout / 2):
		t.Fatal("Close has not ended the process")
	}
	if err := read(); !errors.Is(err, errClosed) {
		t.Errorf("read after Close = %v, want errClosed", err)
	}
}

func TestSlowTreesAreGivenUp(t *testing.T) {
	w := &outliner{git: programOf(t, emptyTrees), idLen: 20, trees: map[oid][]entry{}, until: time.Now().Add(time.Hour)}
	if err := w.load(idOf("a")); err != nil {
		t.Errorf("load = %v", err)
	}
	w.until = time.Now().Add(-time.Second)
	if err := w.load(idOf("b")); !errors.Is(err, errSlow) {
		t.Errorf("load after its time = %v, want errSlow", err)
	}
}

// A ref that was deleted must not stay shared until a long history is looked through.
func TestRefsAreLookedAtBetweenTrees(t *testing.T) {
	for moved, want := range map[bool]int{true: 0, false: 3} {
		s := &Store{cfg: Config{State: t.TempDir(), Every: 1}, reader: reader{git: programOf(t, emptyTrees)}, known: map[oid]*known{},
			parts: map[store.HashPart]told{}}
		r := &renewal{Store: s}
		err := r.look(t.Context(), []oid{idOf("a"), idOf("b"), idOf("c")}, func() bool { return moved })
		if err != nil || len(s.known) != want {
			t.Errorf("refs that have moved: %v: %d trees are known, %v, want %d", moved, len(s.known), err, want)
		}
	}
}
