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

	"github.com/libp2p/go-libp2p/core/network"

	"narbor/p2p/fetch"
	"narbor/store/upstream"
	"narbor/trust"
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

// Neighbours that send wrong blocks before the upstream has sent the NAR do not use up the attempts at the upstream.
func TestUpstreamIsAskedAgainAfterLiarsWereFaster(t *testing.T) {
	s := newSigner(t)
	nar := randomNAR(1000)
	info, m := s.sign(t, "small", nar)
	const liars = 2 // as many as an upstream has attempts
	var asked atomic.Int64
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, ".narinfo") {
			fmt.Fprintf(w, "%sURL: nar/1\nCompression: none\n", info)
			return
		}
		if asked.Add(1) <= liars {
			<-r.Context().Done() // a liar is faster
			return
		}
		_, _ = w.Write(nar)
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
	n.downloads.deps.Swarm = lateLiars{n.downloads.deps.Swarm, holders, &asked}
	fetchAll(t, n, m, nar)
	if got := asked.Load(); got != liars+1 {
		t.Errorf("the upstream was asked %d times, want %d", got, liars+1)
	}
}
