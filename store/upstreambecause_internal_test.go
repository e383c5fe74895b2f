package store

import (
	"context"
	"errors"
	"io"
	"testing"
)

func TestUpstreamsAnswerOutweighsTheDeadline(t *testing.T) {
	over, cancel := context.WithCancel(t.Context())
	cancel()
	for _, tt := range []struct{ recorded, want error }{
		{ErrCorrupt, ErrCorrupt},
		{ErrNotFound, ErrNotFound},
		{io.ErrUnexpectedEOF, context.Canceled},
		{nil, context.Canceled},
	} {
		b := &body{ctx: over, err: tt.recorded}
		if err := b.because(io.ErrUnexpectedEOF); !errors.Is(err, tt.want) {
			t.Errorf("the error after %v is %v, want %v", tt.recorded, err, tt.want)
		}
	}
}
