package upstream

import (
	"context"
	"errors"
	"io"
	"testing"

	"narbor/store"
)

func TestUpstreamsAnswerOutweighsTheDeadline(t *testing.T) {
	over, cancel := context.WithCancel(t.Context())
	cancel()
	for _, tt := range []struct{ recorded, want error }{
		{store.ErrCorrupt, store.ErrCorrupt},
		{store.ErrNotFound, store.ErrNotFound},
		{io.ErrUnexpectedEOF, context.Canceled},
		{nil, context.Canceled},
	} {
		b := &body{ctx: over, err: tt.recorded}
		if err := b.because(io.ErrUnexpectedEOF); !errors.Is(err, tt.want) {
			t.Errorf("the error after %v is %v, want %v", tt.recorded, err, tt.want)
		}
	}
}
