package narserve

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"narbor/store"
)

func TestFailedNARHasOneCause(t *testing.T) {
	absent := fmt.Errorf("store: %w", store.ErrNotFound)
	gone := fmt.Errorf("neighbours: %w", fmt.Errorf("/nix/store/x: no neighbour has it: %w", store.ErrNotFound))
	full := fmt.Errorf("neighbours: %w", store.ErrNoSpace)
	slow := fmt.Errorf("neighbours: %w: %w", store.ErrNotFound, errors.New("too slow"))
	for _, c := range []struct {
		errs []error
		want []error
	}{
		{[]error{absent, full, nil}, []error{full}},
		{[]error{absent, slow}, []error{slow}},
		{[]error{absent, gone, nil}, []error{gone}},
		{[]error{absent, gone, context.DeadlineExceeded}, []error{context.DeadlineExceeded}},
		{[]error{absent, fmt.Errorf("neighbours: %w: %w", store.ErrNotFound, store.ErrNotFound), full}, []error{full}},
		{[]error{nil}, nil},
	} {
		if got := causes(c.errs); fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("causes(%v) = %v, want %v", c.errs, got, c.want)
		}
	}
}
