package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"testing"
	"time"

	"narbor/store"
	"narbor/store/nixstore"
	"narbor/trust"
)

var errStuck = errors.New("the database does not answer")

// An infoSource says one thing about each path.
type infoSource struct {
	store.Source
	info store.Info
	err  error
}

func (s infoSource) Info(context.Context, store.HashPart) (store.Info, error) { return s.info, s.err }

// Neighbours hear of a file only after the store has said that it is not here.
func TestNeighboursAreAskedForAFileThatIsNotHere(t *testing.T) {
	sum := sha256.Sum256([]byte("file"))
	f, err := trust.ParseFile("sha256", hex.EncodeToString(sum[:]))
	if err != nil {
		t.Fatal(err)
	}
	path, err := store.ParsePathName(string(f.PathCalled("file")) + "-file")
	if err != nil {
		t.Fatal(err)
	}
	fetched := store.Info{Path: path, NarHash: sum, NarSize: 100, CA: f.String(), Fetched: true}
	own := fetched
	own.Fetched, own.Ultimate = false, true
	may := trust.Policy{Keys: new(trust.Keys), Fetched: true}
	for name, c := range map[string]struct {
		said          infoSource
		found, absent bool
	}{
		"fetched":               {infoSource{info: fetched}, true, false},
		"built here":            {infoSource{info: own}, false, false},
		"built here, damaged":   {infoSource{info: own, err: fmt.Errorf("%w: %w", store.ErrNotFound, store.ErrDamaged)}, false, false},
		"gone":                  {infoSource{err: store.ErrNotFound}, false, true},
		"the database is stuck": {infoSource{err: errStuck}, false, false},
	} {
		got, absent, err := oneOf(t.Context(), c.said, []store.HashPart{path.HashPart()}, may)
		if (len(got) == 1) != c.found || (err == nil) != c.found || absent != c.absent {
			t.Errorf("%s: oneOf = %v, absent: %t, %v, want it found: %t, absent: %t", name, got, absent, err, c.found, c.absent)
		}
	}
	for name, c := range map[string]struct {
		err    error
		absent bool
	}{"no Nix store": {nixstore.ErrNoNix, true}, "no daemon": {errStuck, false}} {
		s := &shares{nix: &lateNix{err: fmt.Errorf("%w: %w", store.ErrNotFound, c.err), tried: time.Now()}}
		if got, absent, err := s.file(t.Context(), f, may); got != nil || absent != c.absent || !errors.Is(err, c.err) {
			t.Errorf("%s: file = %v, absent: %t, %v, want absent: %t", name, got, absent, err, c.absent)
		}
	}
}
