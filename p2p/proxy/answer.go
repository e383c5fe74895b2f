package proxy

import (
	"bufio"
	"context"
	"errors"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"narbor/p2p/fetch"
	"narbor/p2p/peers"
	"narbor/p2p/serve"
	"narbor/p2p/wire"
	"narbor/store"
	"narbor/store/spool"
	"narbor/trust"
)

var _ serve.Proxy = (*Proxy)(nil)

// AnswerUpstream asks the upstreams for a neighbour. Such a question is never passed on to other neighbours.
func (px *Proxy) AnswerUpstream(ctx context.Context, c serve.Client, bw *bufio.Writer, r wire.Request) error {
	if !px.isProxy() || !c.SpendProxied() { // every question is a miss, unless it is found
		return bw.WriteByte(byte(wire.VerdictNo))
	}
	ctx, cancel := context.WithTimeout(ctx, infoPatience*3/4) // so that the answer is in time
	defer cancel()
	m, err := px.upstreams.lookup(ctx, r.HashParts[0])
	if errors.Is(err, store.ErrNotFound) && !errors.Is(err, errDisbelieved) {
		return bw.WriteByte(byte(wire.VerdictNone))
	}
	if err != nil || !px.mayFetchFor(ctx, m) {
		return bw.WriteByte(byte(wire.VerdictNo))
	}
	text, _, err := serve.ClaimText(m)
	if err != nil {
		return bw.WriteByte(byte(wire.VerdictNo))
	}
	c.Found()
	_, err = bw.Write(wire.VerdictYes.Append(nil, text))
	return err
}

// mayFetchFor reports whether a path that the upstreams have may be fetched for neighbours. One that was built here too
// could not be passed on.
func (px *Proxy) mayFetchFor(ctx context.Context, m trust.Mapping) bool {
	_, ok := px.cfg.Server.May(m)
	return ok && !px.cfg.Lookups.Secrets.BuiltHere(ctx, m.Path().HashPart())
}

// AnswerFetch begins to fetch a NAR for a neighbour, or says how far that is.
func (px *Proxy) AnswerFetch(ctx context.Context, c serve.Client, bw *bufio.Writer, r wire.Request) error {
	hp := r.HashParts[0]
	if !px.isProxy() { // every question is a miss, unless it is found
		return bw.WriteByte(byte(wire.VerdictNo))
	}
	here := func() bool { return px.cfg.Downloads.Has(r.NAR) && px.cfg.Server.Has(ctx, hp, r.NAR) }
	if here() {
		c.Found()
		return bw.WriteByte(byte(wire.VerdictHere))
	}
	running := px.downloads.touch(r.NAR)
	may, f := px.cfg.Server.Partial(r) != nil, px.cfg.Downloads.Session(hp)
	may = may && f != nil // it may have ended meanwhile
	if !may && (running || f == nil) {
		f = px.fetchFor(ctx, c.Asker(), hp, r.NAR)
	} else if !may {
		f = nil
	}
	switch {
	case f != nil:
	case here(): // it has come meanwhile
		c.Found()
		return bw.WriteByte(byte(wire.VerdictHere))
	default:
		return bw.WriteByte(byte(wire.VerdictNo))
	}
	c.Found()
	f.Urge()
	if nb := px.cfg.Lookups.Neighbours.Get(c.Asker().ID); nb != nil { // it will receive the NAR, too
		f.AddMember(nb)
	}
	_, err := bw.Write(wire.Progress{Verdict: wire.VerdictYes, Got: px.upstreams.downloaded(),
		Pace: px.cfg.Throughput.Rate()}.Append(nil))
	return err
}

// A forOthers names the [spool.Call] of a path that is fetched for neighbours.
type forOthers store.HashPart

// fetchFor begins to fetch a NAR on behalf of a neighbour, if our own upstreams have signed it, and there is room and
// budget for it, or waits until this machine has begun to receive it for itself. It returns nil if it will not be
// fetched. If several neighbours ask at the same time, it is fetched once.
func (px *Proxy) fetchFor(ctx context.Context, asker serve.Asker, hp store.HashPart, nar store.Hash) *fetch.Session {
	ctx, cancel := context.WithTimeout(ctx, peers.FetchPatience/2)
	defer cancel()
	m, err := px.upstreams.lookup(ctx, hp)
	if err != nil || m.NarHash() != nar || !px.mayFetchFor(ctx, m) || px.cfg.Downloads.Spooled(m) {
		return nil
	}
	if px.isHere(ctx, m) || ctx.Err() != nil { // if Nix asks for what is here, it must not wait for an upstream
		return nil
	}
	if !px.cfg.Life.Enter() {
		return nil
	}
	asked, end := context.WithCancel(px.cfg.Life.Context())
	var shared *spool.Fetch
	var received atomic.Bool
	start := func() bool { // a fetch for this machine is not joined: what it costs is not the neighbours', nor is its end
		shared = px.cfg.Fetches.Join(px.cfg.Life.Context(), nar, spool.Call{Name: forOthers(hp), First: true,
			Run: func(ctx context.Context) (*spool.NAR, error) {
				sp, err := px.download(ctx, asker, m, &received)
				if err != nil {
					end() // Nix's own fetch may go on in this one's place, and neighbours do not prolong that
				}
				return sp, err
			}})
		return shared != nil
	}
	begun, going := px.downloads.begin(asker.Addr, m, start, end)
	if begun {
		go func() {
			defer px.cfg.Life.Leave()
			defer end()
			defer px.downloads.end(nar)
			if sp, err := shared.Wait(asked); err == nil {
				sp.Close() // it stays in the spool for a while
			}
			if !received.Load() {
				px.downloads.giveBack(asker.Addr, m.NarSize())
			}
		}()
	} else {
		end()
		px.cfg.Life.Leave()
	}
	if !begun && !going {
		return nil
	}
	return px.cfg.Downloads.Await(ctx, m)
}

// isHere reports whether a path is in this machine's sources, and not just arriving.
func (px *Proxy) isHere(ctx context.Context, m trust.Mapping) bool {
	hp := m.Path().HashPart()
	if px.cfg.Downloads.Session(hp) != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, peers.InfoTimeout)
	defer cancel()
	return px.cfg.Server.Has(ctx, hp, m.NarHash()) && px.cfg.Downloads.Session(hp) == nil // it may have begun to arrive meanwhile
}

// download receives a NAR for neighbours, and sets received once it has begun to.
func (px *Proxy) download(ctx context.Context, asker serve.Asker, m trust.Mapping, received *atomic.Bool) (sp *spool.NAR, err error) {
	if !px.cfg.Life.Enter() {
		return nil, context.Canceled
	}
	defer px.cfg.Life.Leave()
	log := px.cfg.Lookups.Log.With(zap.Stringer("peer", asker.ID), zap.Stringer("path", m.Path()))
	a, err := px.cfg.Downloads.Begin(m)
	if err != nil {
		log.Debug("not fetched for a neighbour", zap.Error(err))
		return nil, err
	}
	received.Store(true)
	px.downloads.received(m.NarSize())
	defer func() { a.End(sp) }()
	a.Urge()
	limited, cancel := context.WithTimeout(ctx, store.FetchTime(m.NarSize()))
	defer cancel()
	sp, err = a.Fetch(limited, px.cfg.Downloads.IsSecret(limited, m), true)
	px.cfg.Landed(m, err)
	if err != nil {
		if ctx.Err() == nil { // otherwise nothing wants it any more
			px.downloads.failed.Add(m.NarHash(), time.Now())
		}
		log.Debug("not fetched for a neighbour", zap.Error(err))
		return nil, err
	}
	log.Debug("fetched for a neighbour", zap.Int64("size", m.NarSize()))
	return sp, nil
}
