package receive

import (
	"testing"

	"narbor/p2p/p2ptest"
	"narbor/store"
)

func TestClaimsOfReceivedNARsAreBounded(t *testing.T) {
	f := NewFetched(nil, nil)
	for _, hp := range p2ptest.HashParts(0, maxInfos+10) {
		f.infos.Add(hp, store.Info{})
	}
	if got := f.infos.Len(); got != maxInfos {
		t.Errorf("%d claims are remembered, want %d", got, maxInfos)
	}
}
