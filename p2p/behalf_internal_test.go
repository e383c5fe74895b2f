package p2p

import (
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

func TestOneHalfOfTheBudgetIsForOneNeighbour(t *testing.T) {
	b := newBehalf(1000)
	now := time.Now()
	for _, tt := range []struct {
		who   string
		bytes int64
		want  bool
	}{{"a", 400, true}, {"a", 200, false}, {"a", 100, true}, {"a", 1, false}, {"b", 500, true}, {"c", 1, false}} {
		if got := b.spend(peer.ID(tt.who), tt.bytes, now); got != tt.want {
			t.Errorf("Spend(%s, %d) = %v, want %v", tt.who, tt.bytes, got, tt.want)
		}
	}
	if !b.spend("c", 400, now.Add(12*time.Hour)) {
		t.Error("half a day later half of it is not there again")
	}
}
