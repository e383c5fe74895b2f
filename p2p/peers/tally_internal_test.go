package peers

import (
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

func TestProxyBackoffGrows(t *testing.T) {
	now := time.Unix(1e9, 0)
	ta := &Tally{ID: peer.ID("p")}
	for i, want := range []time.Duration{time.Minute, 4 * time.Minute, 16 * time.Minute, time.Hour, time.Hour} {
		ta.BackOff(now)
		ta.BackOff(now.Add(time.Second)) // another NAR of the same time
		if !ta.inBackoff(now.Add(want - 1)) {
			t.Errorf("after %d failures it is asked again within %s", i+1, want)
		}
		if now = now.Add(want); ta.inBackoff(now) {
			t.Errorf("after %d failures it is left out for more than %s", i+1, want)
		}
	}
	now = now.Add(maxBackoff + 1)
	if ta.BackOff(now); ta.inBackoff(now.Add(BackoffTime)) {
		t.Error("what was long ago still counts")
	}
}
