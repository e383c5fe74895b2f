package narserve_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"testing"

	"narbor/narserve"
	"narbor/store/spool"
	"narbor/trust"
)

// BenchmarkNarinfoMiss is what Nix waits for before it asks its next substituter, over as many connections as
// processors.
func BenchmarkNarinfoMiss(b *testing.B) {
	w := newWorld(b)
	absent, _ := w.info(b, "absent", 10)
	url := "http://" + startServer(b, narserve.New(narserve.Config{Sources: []narserve.Source{w.local(), newWorld(b).local()},
		Keys: w.keys})) + narinfoPath(absent)
	b.RunParallel(func(pb *testing.PB) {
		client := &http.Client{Transport: new(http.Transport)}
		for pb.Next() {
			get(b, client, url, 404)
		}
		client.CloseIdleConnections()
	})
}

// BenchmarkNAR serves NARs that are in the spool already. A request in the smallest is mostly overhead.
func BenchmarkNAR(b *testing.B) {
	for _, size := range []int{4 << 10, 256 << 10, 64 << 20} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			w := newWorld(b)
			info, nar := w.add(b, "big", size)
			src := &probe{inner: w.local()}
			m, err := src.Lookup(b.Context(), info.Path.HashPart())
			if err != nil {
				b.Fatal(err)
			}
			held, err := src.inner.Fetch(b.Context(), m)
			if err != nil {
				b.Fatal(err)
			}
			defer held.Close()
			src.fetch = func(context.Context, trust.Mapping) (*spool.NAR, error) { return held.Retain(), nil }
			url := "http://" + startServer(b, narserve.New(narserve.Config{Sources: []narserve.Source{src}, Keys: w.keys})) + narPath(info)
			b.SetBytes(int64(len(nar)))
			client := &http.Client{Transport: &http.Transport{ReadBufferSize: 256 << 10}}
			for b.Loop() {
				get(b, client, url, 200)
			}
			client.CloseIdleConnections()
		})
	}
}

func get(b *testing.B, client *http.Client, url string, status int) {
	resp, err := client.Get(url)
	if err != nil {
		b.Error(err)
		return
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != status {
		b.Errorf("%s: %v, %v", url, resp.Status, err)
	}
	resp.Body.Close()
}
