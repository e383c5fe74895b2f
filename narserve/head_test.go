package narserve_test

import (
	"context"
	"fmt"
	"testing"

	"narbor/narserve"
	"narbor/store"
)

// damaging is a source with a damaged copy of every path.
type damaging struct{ store.Source }

func (d damaging) Info(ctx context.Context, hp store.HashPart) (store.Info, error) {
	info, err := d.Source.Info(ctx, hp)
	if err == nil {
		err = fmt.Errorf("%w: %w", store.ErrNotFound, store.ErrDamaged)
	}
	return info, err
}

// replaceable is a source that is replaced while the server runs.
type replaceable struct{ store.Source }

func TestHeadOfDamagedNARIsNotFound(t *testing.T) {
	w := newWorld(t)
	info, _ := w.add(t, "hello", 5000)
	for _, tt := range []struct {
		name   string
		others []narserve.Source
		status int
	}{
		{"alone", nil, 404},
		{"another source has it", []narserve.Source{w.local()}, 200},
	} {
		own := &replaceable{w.mem}
		sources := append([]narserve.Source{narserve.Local(own, w.keys, w.spool)}, tt.others...)
		s := narserve.New(narserve.Config{Sources: sources, Keys: w.keys})
		wantStatus(t, tt.name+": narinfo", do(s, "GET", narinfoPath(info)), 200)
		wantStatus(t, tt.name+": HEAD of a sound NAR", do(s, "HEAD", narPath(info)), 200)
		own.Source = damaging{w.mem}
		wantStatus(t, tt.name+": HEAD of a damaged NAR", do(s, "HEAD", narPath(info)), tt.status)
		wantStatus(t, tt.name+": GET of a damaged NAR", do(s, "GET", narPath(info)), tt.status)
	}
}
