package meet

import (
	"context"
	"io"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"narbor/p2p/p2ptest"
	"narbor/p2p/peers"
)

func TestDialledAddressesAreBounded(t *testing.T) {
	d := newDialBackQuotas()
	for i := range maxDialBackAddrs + 10 {
		d.allow(p2ptest.Addr(i), time.Time{})
	}
	if got := d.each.Len(); got != maxDialBackAddrs {
		t.Errorf("%d addresses are remembered, want %d", got, maxDialBackAddrs)
	}
}

func TestQuotasGrowSlowly(t *testing.T) {
	quotas := newDialBackQuotas()
	now := time.Now().Add(time.Hour) // all are full
	quotas.allow(p2ptest.Addr(0), now)
	one, ok := quotas.each.Get(p2ptest.Addr(0))
	if !ok {
		t.Fatal("no quota for an address that was dialled")
	}
	tally := peers.NewLedger("", zap.NewNop()).TallyOf("peer")
	for name, r := range map[string]struct {
		*rate.Limiter
		rate  float64
		burst int
	}{
		"questions about neighbours": {tally.Tellings, 1, 4},
		"dial-backs to an address":   {one, dialBackAddrRate, dialBackAddrBurst},
		"dial-backs":                 {quotas.all, dialBackRate, dialBackBurst},
	} {
		at := now.Add(time.Hour)
		for r.AllowN(at, 1) {
		}
		later := at.Add(time.Duration(float64(r.burst) / r.rate * 0.75 * float64(time.Second)))
		got := 0
		for ; got <= r.burst && r.AllowN(later, 1); got++ {
		}
		if want := r.burst * 3 / 4; got != want && got != want-1 {
			t.Errorf("%s: %d more are allowed after %v, want %d", name, got, later.Sub(at), want)
		}
		if later = later.Add(1000 * time.Hour); r.TokensAt(later) != float64(r.burst) {
			t.Errorf("%s: %v are allowed at once, want %d", name, r.TokensAt(later), r.burst)
		}
	}
}

// A hastyStream notes its deadline, and fails as soon as that is set.
type hastyStream struct {
	network.Stream
	deadline time.Time
}

func (h *hastyStream) SetDeadline(t time.Time) error {
	h.deadline = t
	return io.EOF
}

func (h *hastyStream) Conn() network.Conn { return someConn{} }
func (h *hastyStream) Reset() error       { return nil }

// A someConn is a connection to some peer.
type someConn struct{ network.Conn }

func (someConn) RemotePeer() peer.ID { return "peer" }

func TestStreamsOfPeersHaveADeadline(t *testing.T) {
	cfg := Config{Ledger: peers.NewLedger("", zap.NewNop())}
	for name, c := range map[string]struct {
		limit time.Duration
		serve func(context.Context, network.Stream)
	}{
		"a question about neighbours": {peersTimeout, NewExchange(cfg).Serve},
		"a dial-back":                 {dialBackWait, NewDialBacks(cfg).Serve},
	} {
		s := &hastyStream{}
		c.serve(t.Context(), s)
		if left := time.Until(s.deadline); left <= 0 || left > c.limit {
			t.Errorf("%s: the stream has %v, want at most %v", name, left, c.limit)
		}
	}
}
