package exit_test

import (
	"errors"
	"fmt"
	"testing"

	"narbor/cmd/narbor/exit"
)

func TestCode(t *testing.T) {
	plain := errors.New("plain")
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, 0}, {plain, exit.Failure}, {exit.With(plain, exit.NotFound), exit.NotFound},
		{fmt.Errorf("wrapped: %w", exit.With(plain, exit.Temporary)), exit.Temporary},
	} {
		if got := exit.Code(c.err); got != c.want {
			t.Errorf("Code(%v) = %d, want %d", c.err, got, c.want)
		}
	}
}
