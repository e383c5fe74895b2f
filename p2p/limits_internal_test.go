package p2p

import (
	"crypto/sha256"
	"testing"
	"time"

	"narbor/p2p/p2ptest"
	"narbor/store"
	"narbor/trust/trusttest"
)

func TestMemoriesThatPeersFillAreBounded(t *testing.T) {
	n, _ := runNode(t, trusttest.NewSigner(t), nil)
	parts := p2ptest.HashParts(0, maxInfos+10)
	for name, m := range map[string]struct {
		limit int
		add   func(i int)
		size  func() int
	}{
		"claims of received NARs": {maxInfos, func(i int) { n.downloads.infos.Add(parts[i], store.Info{}) }, n.downloads.infos.Len},
		"failed downloads": {maxFailed, func(i int) {
			n.proxy.jobs.failed.Add(sha256.Sum256([]byte{byte(i >> 8), byte(i)}), time.Time{})
		}, n.proxy.jobs.failed.Len},
		"addresses that had downloads": {maxAskerAddrs, func(i int) { n.proxy.jobs.spend(p2ptest.Addr(i), 0, time.Time{}) },
			n.proxy.jobs.each.Len},
	} {
		for i := range m.limit + 10 {
			m.add(i)
		}
		if got := m.size(); got != m.limit {
			t.Errorf("%s: %d are remembered, want %d", name, got, m.limit)
		}
	}
}
