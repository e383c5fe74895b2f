package narserve_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"narbor/narserve"
	"narbor/store"
	"narbor/store/spool"
	"narbor/trust"
)

// faults are ways in which a source misbehaves; each says whether it then answers all the same.
var faults = []func(ctx context.Context, release chan struct{}, d time.Duration) (honest bool, err error){
	func(context.Context, chan struct{}, time.Duration) (bool, error) { return true, nil },
	func(context.Context, chan struct{}, time.Duration) (bool, error) { return false, store.ErrNotFound },
	func(context.Context, chan struct{}, time.Duration) (bool, error) { return false, errBroken },
	func(context.Context, chan struct{}, time.Duration) (bool, error) { return false, nil }, // nothing, and no error
	func(context.Context, chan struct{}, time.Duration) (bool, error) { panic("at the disco") },
	func(context.Context, chan struct{}, time.Duration) (bool, error) { panic(http.ErrAbortHandler) },
	func(ctx context.Context, _ chan struct{}, _ time.Duration) (bool, error) { // hangs
		<-ctx.Done()
		return false, ctx.Err()
	},
	func(_ context.Context, release chan struct{}, _ time.Duration) (bool, error) { // hangs, whatever it is told
		<-release
		return true, nil
	},
	func(ctx context.Context, _ chan struct{}, d time.Duration) (bool, error) { // is slow
		select {
		case <-time.After(d):
			return true, nil
		case <-ctx.Done():
			return false, ctx.Err()
		}
	},
}

// faulty makes a source that misbehaves by chance, and maybe answers about other instead, truthfully. Lots are drawn
// beforehand, so that a seed means the same run each time.
func faulty(rng *rand.Rand, inner narserve.Source, other trust.Mapping, release chan struct{}) *probe {
	look, fetch := faults[rng.IntN(len(faults))], faults[rng.IntN(len(faults))]
	slow, slower := time.Duration(rng.IntN(500))*time.Millisecond, time.Duration(rng.IntN(300))*time.Second
	wrongMapping, wrongNAR := rng.IntN(6) == 0, rng.IntN(6) == 0
	return &probe{
		lookup: func(ctx context.Context, hp store.HashPart) (trust.Mapping, error) {
			honest, err := look(ctx, release, slow)
			if !honest {
				return trust.Mapping{}, err
			}
			if wrongMapping {
				return other, nil
			}
			return inner.Lookup(ctx, hp)
		},
		fetch: func(ctx context.Context, m trust.Mapping) (*spool.NAR, error) {
			honest, err := fetch(ctx, release, slower)
			if !honest {
				return nil, err
			}
			if wrongNAR {
				m = other
			}
			return inner.Fetch(ctx, m)
		},
	}
}

// TestRandomFaults makes 1,000 requests to each of 250 servers with sources that misbehave at random. In every case a
// narinfo request gets 200 or 404 and a NAR request 200, 206 or 404, in time, and the sent bytes are right.
func TestRandomFaults(t *testing.T) {
	for seed := range uint64(250) {
		synctest.Test(t, func(t *testing.T) { faultRun(t, seed) })
		if t.Failed() {
			return
		}
	}
}

// A promise is what Nix is told at the latest, by what it asks for: the patience for discovery, if it has not settled,
// comes on top of both.
const (
	patience       = 2 * time.Second
	narinfoPromise = 300 * time.Millisecond
	narPromise     = 240 * time.Second
)

func faultRun(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 0))
	w := newWorld(t)
	info, nar := w.add(t, "hello", 500)
	otherInfo, _ := w.add(t, "other", 500)
	other, err := w.keys.Check(otherInfo)
	if err != nil {
		t.Fatal(err)
	}
	release := make(chan struct{})
	var sources []narserve.Source
	for range rng.IntN(5) {
		sources = append(sources, faulty(rng, w.local(), other, release))
	}
	cfg := narserve.Config{Sources: sources, Keys: w.keys, Ahead: int64(rng.IntN(2)) << 20}
	if rng.IntN(2) == 0 {
		cfg.Settled = make(chan struct{}) // never
	}
	s := narserve.New(cfg)
	var asked sync.WaitGroup
	for range 4 {
		isNAR, method, header, hangsUp := rng.IntN(2) == 0, []string{"GET", "GET", "HEAD"}[rng.IntN(3)], "", time.Hour
		path, promise := narinfoPath(info), narinfoPromise+patience
		if isNAR {
			path, promise = narPath(info), narPromise
		}
		if isNAR && rng.IntN(2) == 0 {
			header = "bytes=100-"
		}
		if rng.IntN(4) == 0 {
			hangsUp = time.Duration(rng.IntN(400)) * time.Millisecond
		}
		asked.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), hangsUp)
			defer cancel()
			began := time.Now()
			resp := doContext(ctx, s, method, path, "Range", header)
			what := fmt.Sprintf("seed %d: %s %s", seed, method, path)
			if dur := time.Since(began); dur > min(promise, hangsUp) {
				t.Errorf("%s is answered after %v, want %v at most", what, dur, min(promise, hangsUp))
			}
			checkAnswer(t, what, resp, method, isNAR, info, nar)
		})
		time.Sleep(time.Duration(rng.IntN(200)) * time.Millisecond) // the bubble's
	}
	asked.Wait()
	close(release)
	synctest.Wait()
	time.Sleep(10 * time.Minute) // what was fetched ahead has ended too
	w.wantIdle(t)
}

func checkAnswer(t *testing.T, what string, resp *http.Response, method string, isNAR bool, info store.Info, nar []byte) {
	got := body(t, resp)
	switch {
	case resp.StatusCode == http.StatusNotFound:
	case method == "HEAD" && resp.StatusCode == http.StatusOK && len(got) == 0:
	case !isNAR && resp.StatusCode == http.StatusOK && strings.HasPrefix(string(got),
		"StorePath: "+info.Path.String()+"\nNarHash: "+info.NarHash.String()+"\n"):
	case isNAR && resp.StatusCode == http.StatusOK && bytes.Equal(got, nar):
	case isNAR && resp.StatusCode == http.StatusPartialContent && bytes.Equal(got, nar[100:]):
	default:
		t.Errorf("%s = %d with %.200q", what, resp.StatusCode, got)
	}
}
