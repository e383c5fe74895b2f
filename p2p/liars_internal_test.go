package p2p

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"narbor/p2p/fetch"
	"narbor/store/upstream"
	"narbor/trust"
	"narbor/trust/trusttest"
)

// lateLiars is a swarm in which one more holder is found each time that the upstream is asked for the NAR.
type lateLiars struct {
	fetch.Swarm
	liars []fetch.Holder
	asked *atomic.Int64
}

func (l lateLiars) Holders(context.Context, trust.Mapping, bool) []fetch.Holder { return nil }

func (l lateLiars) Known(trust.Mapping) []fetch.Holder {
	return l.liars[:min(int(l.asked.Load()), len(l.liars))]
}

// Neighbours that send wrong blocks before the upstream has sent the NAR do not use up the attempts at the upstream,
// and after two of them it is asked alone.
func TestUpstreamIsAskedAgainAfterLiarsWereFaster(t *testing.T) {
	s := trusttest.NewSigner(t)
	nar := randomNAR(1000)
	info, m := s.Sign(t, "small", nar)
	const liars, attempts = 4, 2 // an upstream has as many attempts
	var asked atomic.Int64
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, ".narinfo") {
			fmt.Fprintf(w, "%sURL: nar/1\nCompression: none\n", info)
			return
		}
		wait := time.Hour // a liar is faster
		if asked.Add(1) > attempts {
			wait = time.Second / 2 // many ticks, in which the other liars would be asked
		}
		select {
		case <-r.Context().Done():
		case <-time.After(wait):
			_, _ = w.Write(nar)
		}
	}))
	t.Cleanup(web.Close)
	var rogues []*rogue
	for range liars {
		rogues = append(rogues, (&rogue{info: info, nar: nar, block: func(s network.Stream, _ int, b []byte) error {
			wrong := bytes.Clone(b)
			wrong[0] ^= 1
			return writeRaw(s, wrong)
		}}).start(t))
	}
	n, _ := runNodeAs(t, s, func(cfg *Config) {
		u, err := upstream.Open(upstream.Config{URL: web.URL, Agent: "test"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = u.Close() })
		cfg.Upstreams.Caches = append(cfg.Upstreams.Caches, u)
	}, rogues...)
	var holders []fetch.Holder
	for _, nb := range n.neighbours.All() {
		holders = append(holders, fetch.Holder{Neighbour: nb})
	}
	n.downloads.Sessions.Swarm = lateLiars{n.downloads.Sessions.Swarm, holders, &asked}
	fetchAll(t, n, m, nar)
	if got := asked.Load(); got != attempts+1 {
		t.Errorf("the upstream was asked %d times, want %d", got, attempts+1)
	}
}
