package proxy

import (
	"crypto/sha256"
	"testing"
	"time"

	"narbor/p2p/p2ptest"
)

func TestMemoriesThatPeersFillAreBounded(t *testing.T) {
	b := newDownloads(DefaultBudget)
	for name, m := range map[string]struct {
		limit int
		add   func(i int)
		size  func() int
	}{
		"failed downloads": {maxFailed, func(i int) { b.failed.Add(sha256.Sum256([]byte{byte(i >> 8), byte(i)}), time.Time{}) },
			b.failed.Len},
		"addresses that had downloads": {maxAskerAddrs, func(i int) { b.spend(p2ptest.Addr(i), 0, time.Time{}) }, b.each.Len},
	} {
		for i := range m.limit + 10 {
			m.add(i)
		}
		if got := m.size(); got != m.limit {
			t.Errorf("%s: %d are remembered, want %d", name, got, m.limit)
		}
	}
}
