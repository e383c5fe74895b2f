package narserve_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"io"
	"slices"
	"testing"

	"narbor/narserve"
	"narbor/store"
	"narbor/store/spool"
	"narbor/trust"
	"narbor/trust/trusttest"
)

func sum(b []byte) store.Hash { return sha256.Sum256(b) }

func newReader(r io.Reader) *bufio.Reader { return bufio.NewReader(r) }

func TestLocalSharesOnlyWhatIsSigned(t *testing.T) {
	w := newWorld(t)
	signed, _ := w.add(t, "signed", 100)
	unsigned, nar := w.info(t, "unsigned", 100)
	unsigned.Signatures = nil
	w.mem.Add(unsigned, nar)
	stranger := newWorld(t)
	stranger.mem = w.mem
	foreign, _ := stranger.add(t, "foreign", 100)
	wrong, nar := w.info(t, "wrong", 100)
	wrong.Signatures = slices.Clone(signed.Signatures)
	w.mem.Add(wrong, nar)
	absent, _ := w.info(t, "absent", 100)
	src := w.local()
	if m, err := src.Lookup(t.Context(), signed.Path.HashPart()); err != nil || m.SignedBy() != keyName || m.NarHash() != signed.NarHash {
		t.Errorf("Lookup(signed) = %v, %v", m, err)
	}
	for name, info := range map[string]store.Info{"unsigned": unsigned, "foreign": foreign, "wrong": wrong, "absent": absent} {
		if m, err := src.Lookup(t.Context(), info.Path.HashPart()); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("Lookup(%s) = %v, %v, want ErrNotFound", name, m, err)
		}
	}
}

// TestLocalSharesNoUnsignedContentAddress has a path that proves itself, as private sources do.
func TestLocalSharesNoUnsignedContentAddress(t *testing.T) {
	w := newWorld(t)
	nar := fileNAR([]byte("a private source"))
	info := trusttest.SourceClaim(t, "private", nar)
	w.mem.Add(info, nar)
	if m, err := w.keys.Check(info); err != nil || m.SignedBy() != "" {
		t.Fatalf("Check = %v, %v: the test's path does not prove itself", m, err)
	}
	if m, err := w.local().Lookup(t.Context(), info.Path.HashPart()); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Lookup = %v, %v, want ErrNotFound", m, err)
	}
	m, err := w.keys.Check(info)
	if err != nil {
		t.Fatal(err)
	}
	if sp, err := w.local().Fetch(t.Context(), m); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Fetch = %v, %v, want ErrNotFound", sp, err)
	}
}

func TestLocalFetch(t *testing.T) {
	w := newWorld(t)
	info, nar := w.add(t, "hello", 3<<20)
	src := w.local()
	m, err := src.Lookup(t.Context(), info.Path.HashPart())
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // from the store, then from the spool
		sp, err := src.Fetch(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, sp.Size())
		if _, err := sp.ReadAt(got, 0); err != nil && err != io.EOF || !slices.Equal(got, nar) {
			t.Errorf("Fetch: other bytes, %v", err)
		}
		sp.Close()
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	other, _ := w.add(t, "other", 3<<20)
	if m, err = src.Lookup(t.Context(), other.Path.HashPart()); err != nil {
		t.Fatal(err)
	}
	if sp, err := src.Fetch(ctx, m); !errors.Is(err, context.Canceled) || !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Fetch, cancelled = %v, %v, want Canceled and ErrNotFound", sp, err)
	}
	w.wantIdle(t)
}

func TestLocalFetchVerifies(t *testing.T) {
	w := newWorld(t)
	for name, tamper := range map[string]func([]byte) []byte{
		"flipped": func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
		"cut":     func(b []byte) []byte { return b[:len(b)-8] },
		"longer":  func(b []byte) []byte { return append(b, make([]byte, 8)...) },
		"empty":   func([]byte) []byte { return nil },
	} {
		info, nar := w.info(t, name, 5000)
		w.mem.Add(info, tamper(nar))
		m, err := w.local().Lookup(t.Context(), info.Path.HashPart())
		if err != nil {
			t.Fatal(err)
		}
		if sp, err := w.local().Fetch(t.Context(), m); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s: Fetch = %v, %v, want ErrNotFound", name, sp, err)
		}
		if st := w.spool.Stats(); st.Bytes != 0 {
			t.Errorf("%s: the spool keeps %d bytes", name, st.Bytes)
		}
		s := narserve.New(narserve.Config{Sources: []narserve.Source{w.local()}, Keys: w.keys})
		wantStatus(t, name, do(s, "GET", narPath(info)), 404)
	}
}

func TestLocalFetchRefusesWhatItMayNotShare(t *testing.T) {
	w, neighbour := newWorld(t), newWorld(t)
	neighbour.secret, neighbour.keys = w.secret, w.keys
	info, nar := neighbour.add(t, "hello", 100)
	m, err := neighbour.local().Lookup(t.Context(), info.Path.HashPart())
	if err != nil {
		t.Fatal(err)
	}
	unsigned := info
	unsigned.Signatures = nil
	w.mem.Add(unsigned, nar)
	if sp, err := w.local().Fetch(t.Context(), m); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Fetch of what the own store has unsigned = %v, %v, want ErrNotFound", sp, err)
	}
	rebuilt := fileNAR([]byte("built again"))
	again := info
	again.NarHash, again.NarSize = sum(rebuilt), int64(len(rebuilt))
	w.sign(&again)
	w.mem.Add(again, rebuilt)
	if sp, err := narserve.Local(sealed{w.mem, t}, w.keys, w.spool).Fetch(t.Context(), m); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Fetch of what the own store has by another NarHash = %v, %v, want ErrNotFound", sp, err)
	}
}

// TestSpooledForAnotherPath has a NAR in the spool that is right by its hash, and a path for which it is a forgery:
// a content-addressed text must be a regular file, and the fetch of the NAR did not check that for this path.
func TestSpooledForAnotherPath(t *testing.T) {
	w := newWorld(t)
	contents := []byte("some text")
	nar := executableNAR(contents)
	signed, _ := w.info(t, "tool", 0)
	signed.NarHash, signed.NarSize = sum(nar), int64(len(nar))
	w.sign(&signed)
	w.mem.Add(signed, nar)
	s := narserve.New(narserve.Config{Sources: []narserve.Source{w.local()}, Keys: w.keys, Fetches: spool.NewFetches(w.spool.Get)})
	wantStatus(t, "a part, so that it stays in the spool", do(s, "GET", narPath(signed), "Range", "bytes=0-9"), 206)

	forged := trusttest.TextClaim(t, "text", string(contents))
	forged.NarHash, forged.NarSize = sum(nar), int64(len(nar))
	m, err := w.keys.Check(forged)
	if err != nil {
		t.Fatalf("Check(%v) = %v: the test's claim is not believed until its NAR is seen", forged, err)
	}
	neighbour := &probe{lookup: func(context.Context, store.HashPart) (trust.Mapping, error) { return m, nil },
		fetch: func(context.Context, trust.Mapping) (*spool.NAR, error) { return nil, store.ErrNotFound }}
	s = narserve.New(narserve.Config{Sources: []narserve.Source{neighbour}, Keys: w.keys, Fetches: spool.NewFetches(w.spool.Get)})
	wantStatus(t, "a forgery that is in the spool", do(s, "GET", narPath(forged)), 404)
	if n := neighbour.fetched.Load(); n != 0 {
		t.Errorf("it was fetched %d times, want 0: it is in the spool", n)
	}
	w.wantIdle(t)
	signedToo := forged
	w.sign(&signedToo)
	w.mem.Add(signedToo, nar)
	if sp, err := narserve.Local(w.mem, w.keys, newWorld(t).spool).Fetch(t.Context(), m); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("Fetch from the store = %v, %v, want ErrCorrupt", sp, err)
	}
}

// sealed is a store that fails the test if an archive is opened.
type sealed struct {
	store.Source
	t *testing.T
}

func (s sealed) NAR(_ context.Context, info store.Info) (store.NAR, error) {
	s.t.Errorf("NAR(%s) was called", info.Path)
	return nil, errBroken
}

// brokenSource is a store that cannot be asked.
type brokenSource struct{ store.Source }

func (brokenSource) Info(context.Context, store.HashPart) (store.Info, error) {
	return store.Info{}, errBroken
}

func TestLocalTellsBrokenFromAbsent(t *testing.T) {
	w := newWorld(t)
	info, _ := w.info(t, "hello", 10)
	m, err := narserve.Local(brokenSource{w.mem}, w.keys, w.spool).Lookup(t.Context(), info.Path.HashPart())
	if !errors.Is(err, errBroken) || errors.Is(err, store.ErrNotFound) {
		t.Errorf("Lookup = %v, %v, want what the store said", m, err)
	}
}

func TestLocalKeysMayBeReplaced(t *testing.T) {
	w := newWorld(t)
	info, _ := w.add(t, "hello", 10)
	src := w.local()
	if err := w.keys.Replace([]string{"other-1:" + base64.StdEncoding.EncodeToString(make([]byte, 32))}); err == nil {
		if m, err := src.Lookup(t.Context(), info.Path.HashPart()); !errors.Is(err, store.ErrNotFound) ||
			!errors.Is(err, trust.ErrUntrusted) {
			t.Errorf("Lookup = %v, %v, want ErrNotFound", m, err)
		}
	}
}
