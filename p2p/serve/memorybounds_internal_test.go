package serve

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"narbor/p2p/p2ptest"
	"narbor/trust/trusttest"

	"github.com/libp2p/go-libp2p/core/peer"
)

func TestMemoryOfMachinesIsBounded(t *testing.T) {
	r := newTestServer(t, trusttest.NewSigner(t).Keys).quotas
	for i := range 2 * maxMissAddrs {
		r.of(netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}))
	}
	if r.each.Len() > maxMissAddrs || r.seen.Len() > maxMissAddrs {
		t.Errorf("%d machines and %d addresses are remembered, want at most %d", r.each.Len(), r.seen.Len(), maxMissAddrs)
	}
}

func TestMemoryOfWhatWasToldIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told toldParts
		parts := p2ptest.HashParts(0, 2*maxToldParts-1)
		for _, hp := range parts {
			told.add(hp)
		}
		if len(told.parts) > maxToldParts {
			t.Errorf("%d hash parts are remembered, want at most %d", len(told.parts), maxToldParts)
		}
		last := parts[len(parts)-1]
		if told.add(last) {
			t.Error("a path that was told a moment ago is told again")
		}
		if time.Sleep(toldFor + 1); !told.add(last) {
			t.Errorf("a path that was told %s ago is not told again", toldFor+1)
		}
	})
}

func TestBlocksReadForOnePeerAtOnceAreBounded(t *testing.T) {
	s := newServing(0)
	got := 0
	for {
		if _, ok := s.reading.try(Asker{ID: "peer"}); !ok || got > maxUploads {
			break
		}
		got++
	}
	if got != maxUploadsPeer {
		t.Errorf("%d blocks are read for one peer at once, want %d", got, maxUploadsPeer)
	}
	for i := range 2 * maxUploads {
		if _, ok := s.reading.try(Asker{ID: peer.ID(fmt.Sprint(i))}); ok {
			got++
		}
	}
	if got != maxUploads {
		t.Errorf("%d blocks are read for all peers at once, want %d", got, maxUploads)
	}
}
