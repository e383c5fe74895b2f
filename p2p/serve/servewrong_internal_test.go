package serve

import (
	"net/netip"
	"testing"

	"narbor/p2p/p2ptest"
	"narbor/p2p/wire"
	"narbor/store"
)

func TestReportsOfWrongNARsHaveAQuota(t *testing.T) {
	srv, info := sharing(t, p2ptest.Random(1000))
	stream := dial(t, srv, "asker", "127.0.0.1")
	for range 10 * wrongBurst {
		send(stream, wire.Request{Kind: wire.AskWrong, HashParts: []store.HashPart{info.Path.HashPart()}, NAR: info.NarHash})
		answer := make([]byte, 1)
		if _, err := stream.Read(answer); err != nil || answer[0] != 0 {
			t.Fatalf("the answer is %v, %v, want 0", answer, err)
		}
	}
	if tokens := srv.quotas.peer("asker", netip.MustParseAddr("127.0.0.1")).wrongTellings.Tokens(); tokens >= 1 {
		t.Errorf("the peer may still have %.0f paths checked, want none", tokens)
	}
	if got := srv.cfg.Ledger.TallyOf("asker").Strikes.Load(); got != 0 {
		t.Errorf("it has %d strikes", got)
	}
}
