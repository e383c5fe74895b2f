package peers

import (
	"bufio"
	"context"
	"fmt"
	"time"

	"github.com/libp2p/go-libp2p/core/protocol"

	"narbor/p2p/wire"
	"narbor/store"
	"narbor/trust"
)

// Has reports whether a neighbour has announced a protocol.
func (n *Neighbour) Has(p protocol.ID) bool {
	has, err := n.host.Peerstore().SupportsProtocols(n.ID, p)
	return err == nil && len(has) > 0
}

// LeftOut returns why a neighbour is to be assigned nothing; "" if it may be.
func (n *Neighbour) LeftOut(now time.Time) string {
	switch {
	case n.Tally.inBackoff(now):
		return "it has failed as a proxy a moment ago"
	case n.IsLate():
		return "it is slow to answer"
	}
	return ""
}

// AskInfo asks a neighbour what its upstreams say about a hash part, and waits so long for the answer.
func (n *Neighbour) AskInfo(ctx context.Context, hp store.HashPart, within time.Duration) (v wire.Verdict, text string, err error) {
	err = n.exchange(ctx, wire.Request{Kind: wire.AskUpstream, HashParts: []store.HashPart{hp}}, within, func(br *bufio.Reader) error {
		v, text, err = wire.ReadVerdict(br)
		return err
	})
	return v, text, err
}

// AskFetch asks a neighbour to fetch a NAR from its upstream, and how far it is.
func (n *Neighbour) AskFetch(ctx context.Context, hp store.HashPart, nar store.Hash) (p wire.Progress, err error) {
	err = n.exchange(ctx, wire.Request{Kind: wire.AskFetch, HashParts: []store.HashPart{hp}, NAR: nar}, FetchPatience,
		func(br *bufio.Reader) error {
			p, err = wire.ReadProgress(br)
			return err
		})
	return p, err
}

// exchange asks one thing, and reads the answer within a time. A stream that was kept open may have been closed by the
// other side; then it is asked on a new one.
func (n *Neighbour) exchange(ctx context.Context, r wire.Request, within time.Duration, read func(*bufio.Reader) error) error {
	select {
	case n.proxying <- struct{}{}:
		defer func() { <-n.proxying }()
	case <-ctx.Done():
		return ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		ex, err := n.Take(ctx)
		if err != nil {
			return err
		}
		stop := context.AfterFunc(ctx, func() { ex.Reset() })
		kept := ex.Kept
		ex.Until = time.Now().Add(within)
		if err = ex.Send(r); err == nil {
			err = read(ex.Reader)
		}
		if err == nil && stop() {
			n.Put(ex)
			return nil
		}
		stop()
		ex.Reset()
		if err == nil || !kept || ctx.Err() != nil {
			return err
		}
	}
}

// TellWrong tells a neighbour that the NAR which it has sent does not have its hash.
func (n *Neighbour) TellWrong(ctx context.Context, m trust.Mapping) error {
	ex, err := n.Open(ctx, AskTimeout)
	if err != nil {
		return err
	}
	defer ex.Reset()
	defer context.AfterFunc(ctx, func() { ex.Reset() })()
	if err := ex.Send(wire.Request{Kind: wire.AskWrong, HashParts: []store.HashPart{m.Path().HashPart()}, NAR: m.NarHash()}); err != nil {
		return err
	}
	_, err = ex.Reader.ReadByte()
	return err
}

// AskAlone asks the neighbour about hash parts on a stream of its own, which ends with the answer.
func (n *Neighbour) AskAlone(ctx context.Context, parts []store.HashPart) ([]Reply, error) {
	ex, err := n.Open(ctx, AskTimeout)
	if err != nil {
		return nil, err
	}
	defer ex.Reset()
	ex.Until = time.Now().Add(AskTimeout)
	defer context.AfterFunc(ctx, func() { ex.Reset() })()
	if err := ex.Send(wire.Request{Kind: wire.AskClaims, HashParts: parts}); err != nil {
		return nil, err
	}
	replies := make([]Reply, len(parts))
	for i := range parts {
		text, receiving, err := wire.ReadClaim(ex.Reader)
		if err != nil {
			return nil, err
		}
		replies[i] = Reply{From: n, Text: text, Receiving: receiving}
	}
	return replies, nil
}

// Offer offers claims to the neighbour on a stream of its own, which ends with the answers. It returns for which of the
// first claims the neighbour shares their paths, as far as it has answered within that time.
func (n *Neighbour) Offer(ctx context.Context, claims []store.Info, within time.Duration) (here []bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	ex, err := n.Open(ctx, within)
	if err != nil {
		return nil, err
	}
	defer ex.Reset()
	ex.Until = time.Now().Add(within)
	defer context.AfterFunc(ctx, func() { ex.Reset() })()
	for _, c := range claims {
		if err := ex.Send(wire.Request{Kind: wire.AskOffer, Offer: c}); err != nil {
			return nil, err
		}
	}
	for range claims {
		took, err := wire.ReadOffered(ex.Reader)
		if err != nil {
			n.broke(ex, err)
			return here, err
		}
		here = append(here, took)
	}
	return here, nil
}

// AskFile asks the neighbour for a path that is a file, on a stream of its own, and waits so long for the claim; "" is
// none.
func (n *Neighbour) AskFile(ctx context.Context, f trust.File, within time.Duration) (claim string, err error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	ex, err := n.Open(ctx, within)
	if err != nil {
		return "", err
	}
	defer ex.Reset()
	ex.Until = time.Now().Add(within)
	defer context.AfterFunc(ctx, func() { ex.Reset() })()
	if err := ex.Send(wire.Request{Kind: wire.AskFile, File: f}); err != nil {
		return "", err
	}
	claim, receiving, err := wire.ReadClaim(ex.Reader)
	if err == nil && receiving {
		err = fmt.Errorf("%w: a file that is being received", wire.ErrWire)
	}
	if err != nil {
		n.broke(ex, err)
		return "", err
	}
	return claim, nil
}
