package upstream

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// rated returns the files of two archives that are there at once, from caches that share a limit.
func rated(t *testing.T, rate int64, size int) []*body {
	limit := NewRate(rate)
	var bodies []*body
	for range 2 {
		b := &body{ctx: t.Context(), upstream: &Cache{rate: limit}, size: int64(size)}
		b.conn.resp = &http.Response{Body: io.NopCloser(bytes.NewReader(make([]byte, size)))}
		b.conn.stalled = time.AfterFunc(time.Hour, func() {})
		b.conn.stalled.Stop()
		bodies = append(bodies, b)
	}
	return bodies
}

func TestRateBoundsAllDownloadsTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate, size = 1 << 20, 5 << 20
		start := time.Now()
		var all sync.WaitGroup
		for _, b := range rated(t, rate, size) {
			all.Go(func() {
				if n, err := io.Copy(io.Discard, b); n != size || err != nil {
					t.Errorf("%d bytes, %v", n, err)
				}
			})
		}
		all.Wait()
		if took := time.Since(start); took < 9900*time.Millisecond || took > 10*time.Second {
			t.Errorf("10 MiB came in %s, want 10 s", took)
		}
	})
}

func TestRateDoesNotOutlastItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		b := rated(t, 100, 1<<20)[0]
		b.ctx = ctx
		start := time.Now()
		if _, err := io.Copy(io.Discard, b); err == nil || errors.Is(err, io.EOF) || time.Since(start) > time.Second {
			t.Errorf("copy = %v after %s, want an error within a second", err, time.Since(start))
		}
	})
}
