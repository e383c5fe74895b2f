package main

import (
	"context"
	"crypto/sha256"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"narbor/p2p/transport"
	"narbor/store"
	"narbor/store/spool"
)

// A file in the place of the directory keeps even root from writing.
func TestStateThatCannotBeWrittenIsReplaced(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", t.TempDir())
	core, said := observer.New(zap.WarnLevel)
	s, err := openState(filepath.Join(file, "state"), zap.New(core))
	if err != nil {
		t.Fatalf("openState = %v, want a directory of this run", err)
	}
	if said.Len() != 1 {
		t.Errorf("%d warnings, want 1", said.Len())
	}
	if _, err := transport.LoadIdentity(s.file(identityName)); err != nil {
		t.Error(err)
	}
	if err := s.close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(s.dir); !os.IsNotExist(err) {
		t.Errorf("%s is left: %v", s.dir, err)
	}
}

func TestStateIsMadeAnew(t *testing.T) {
	core, said := observer.New(zap.WarnLevel)
	s, err := openState(filepath.Join(t.TempDir(), "state"), zap.New(core))
	if err != nil {
		t.Fatal(err)
	}
	identity, err := transport.LoadIdentity(s.file(identityName))
	if err != nil {
		t.Fatal(err)
	}
	spool, err := spool.Open(spool.Config{Dir: s.file("spool"), MinFree: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer spool.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.keep(ctx, identity, spool, zap.New(core)) }()
	if err := os.RemoveAll(s.dir); err != nil {
		t.Fatal(err)
	}
	eventually(t, "warned that the state has gone", func() bool { return said.Len() > 0 })
	cancel()
	if err := <-done; err != nil || said.Len() != 1 {
		t.Errorf("%d warnings and %v, want 1 warning", said.Len(), err)
	}
	if again, err := transport.LoadIdentity(s.file(identityName)); err != nil || !again.Equals(identity) {
		t.Errorf("the identity is another one: %v", err)
	}
	if _, err := os.Stat(s.file("spool")); err != nil {
		t.Error(err)
	}
}

func TestDraftsExpireWhileNothingIsFetched(t *testing.T) {
	s, err := openState(filepath.Join(t.TempDir(), "state"), zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	identity, err := transport.LoadIdentity(s.file(identityName))
	if err != nil {
		t.Fatal(err)
	}
	open := func() *spool.Spool {
		sp, err := spool.Open(spool.Config{Dir: s.file("spool"), MinFree: -1})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { sp.Close() })
		return sp
	}
	files := func() []string {
		names, err := filepath.Glob(s.file("spool/*.nar"))
		if err != nil {
			t.Fatal(err)
		}
		return names
	}
	sp, nar := open(), make([]byte, store.BlockSize)
	d, err := sp.Create(sha256.Sum256(nar), int64(len(nar)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.WriteAt(nar, 0); err != nil {
		t.Fatal(err)
	}
	sp.Close()
	soon := time.Now().Add(3*time.Second - 24*time.Hour) // it has been here for nearly a day
	if len(files()) != 1 || os.Chtimes(files()[0], soon, soon) != nil {
		t.Fatalf("files %q, want one of a draft", files())
	}
	ctx, cancel := context.WithCancel(t.Context())
	again, done := open(), make(chan error, 1)
	go func() { done <- s.keep(ctx, identity, again, zap.NewNop()) }()
	eventually(t, "without the draft, which is over a day old", func() bool {
		text, err := os.ReadFile(s.file(identityName))
		if err == nil && os.WriteFile(s.file("new"), text, 0o600) == nil { // the old one goes, so that keep looks
			err = os.Rename(s.file("new"), s.file(identityName))
		}
		if err != nil {
			t.Fatal(err)
		}
		return len(files()) == 0
	})
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
