package p2p

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"go.uber.org/zap"

	"narbor/p2p/fetch"
	"narbor/p2p/netmon"
	"narbor/p2p/peers"
	"narbor/p2p/secrets"
	"narbor/p2p/serve"
	"narbor/p2p/wire"
	"narbor/store"
	"narbor/store/flight"
	"narbor/store/spool"
	"narbor/store/upstream"
	"narbor/trust"
)

// DefaultBudget is how many bytes of NARs a day are fetched for neighbours: a dozen systems.
const DefaultBudget = 50 << 30

// A proxy asks the upstreams for neighbours, and knows which neighbour does that for this machine. Its methods may be
// called concurrently.
type proxy struct {
	cooperates bool // unless the user has asked for this machine to be alone
	upstreams  *upstreams
	protocol   protocol.ID // of the peers that ask the same upstreams for others
	neighbours *peers.Set
	secrets    *secrets.Policy
	server     *serve.Server
	downloads  *downloads
	jobs       *proxyDownloads
	background *flight.Life
	host       host.Host
	metered    func() bool // whether an interface costs money by the byte
	power      *netmon.Power
}

// upstreamProtocol begins an upstream protocol ID. That protocol carries no data: a peer advertises it to say that it
// asks certain upstreams on behalf of neighbours.
const upstreamProtocol = "/narbor/upstream/1/"

// upstreamProtocolID is advertised by the peers that ask these upstreams. Others are not elected: our upstreams may
// have what theirs lack.
func upstreamProtocolID(upstreams []*upstream.Cache) protocol.ID {
	var urls []string
	for _, u := range upstreams {
		urls = append(urls, u.String())
	}
	slices.Sort(urls)
	sum := sha256.Sum256([]byte(strings.Join(slices.Compact(urls), "\n")))
	return protocol.ID(upstreamProtocol + hex.EncodeToString(sum[:8]))
}

// assignmentOf is the beginning of the hash input of the peers' rendezvous weights for a path. It does not depend on
// the NAR: so the peer that asks for its narinfo is also the one that fetches its NAR, and has its location by then.
func assignmentOf(hp store.HashPart) store.Hash { return sha256.Sum256([]byte(hp)) }

// helps says whether this node asks its upstreams for others.
func (px *proxy) helps() bool { return px.alone() == "" }

// alone returns the reason why this node asks its upstreams only for itself; "" if it asks for others, too.
func (px *proxy) alone() string {
	switch {
	case len(px.upstreams.caches) == 0:
		return "it has no upstream"
	case !px.cooperates:
		return "it does not cooperate (--no-cooperate)"
	case !px.server.Sharing():
		return "it shares nothing"
	case !px.upstreams.public():
		return "an upstream's URL has a user or a password"
	case px.metered():
		return "it is on a metered network"
	case px.power.OnBattery():
		return "it runs on battery"
	}
	return ""
}

// AnswerUpstream asks the upstreams for a neighbour. Such a question is never passed on to other neighbours.
func (px *proxy) AnswerUpstream(ctx context.Context, c serve.Client, bw *bufio.Writer, r wire.Request) error {
	if !px.helps() || !c.MayHelp() { // every question is a miss, unless it is found
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
func (px *proxy) mayFetchFor(ctx context.Context, m trust.Mapping) bool {
	_, ok := px.server.May(m)
	return ok && !px.secrets.BuiltHere(ctx, m.Path().HashPart())
}

// AnswerFetch begins to fetch a NAR for a neighbour, or says how far that is.
func (px *proxy) AnswerFetch(ctx context.Context, c serve.Client, bw *bufio.Writer, r wire.Request) error {
	hp := r.HashParts[0]
	if !px.helps() { // every question is a miss, unless it is found
		return bw.WriteByte(byte(wire.VerdictNo))
	}
	here := func() bool { return px.downloads.spool.Has(r.NAR) && px.server.Has(ctx, hp, r.NAR) }
	if here() {
		c.Found()
		return bw.WriteByte(byte(wire.VerdictHere))
	}
	helped := px.jobs.touch(r.NAR)
	may, f := px.server.Partial(r) != nil, px.downloads.session(hp)
	may = may && f != nil // it may have ended meanwhile
	if !may && (helped || f == nil) {
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
	px.meetOn(f, c.Asker().ID)
	_, err := bw.Write(wire.Progress{Verdict: wire.VerdictYes, Got: px.upstreams.downloaded(),
		Pace: px.upstreams.throughput.Rate()}.Append(nil))
	return err
}

// meet makes a peer that asks about a NAR a member of its swarm, if the NAR is being received here: the peer may be
// about to receive it, too. It comes after the budget, because a member is asked for blocks, and so hears of it.
func (px *proxy) meet(id peer.ID, hp store.HashPart) {
	if f := px.downloads.session(hp); f != nil {
		px.meetOn(f, id)
	}
}

// meetOn makes a peer that asks for a NAR a member of the NAR's swarm.
func (px *proxy) meetOn(f *fetch.Session, id peer.ID) {
	if nb := px.neighbours.Get(id); nb != nil {
		f.Meet(nb)
	}
}

// A forOthers names the [spool.Call] of a path that is fetched for neighbours.
type forOthers store.HashPart

// fetchFor begins to fetch a NAR on behalf of a neighbour, if our own upstreams have signed it, and there is room and
// budget for it, or waits until this machine has begun to receive it for itself. It returns nil if it will not be fetched. If
// several neighbours ask at the same time, it is fetched once.
func (px *proxy) fetchFor(ctx context.Context, who serve.Asker, hp store.HashPart, nar store.Hash) *fetch.Session {
	ctx, cancel := context.WithTimeout(ctx, peers.FetchPatience/2)
	defer cancel()
	m, err := px.upstreams.lookup(ctx, hp)
	if err != nil || m.NarHash() != nar || !px.mayFetchFor(ctx, m) || px.downloads.spooledFor(m) {
		return nil
	}
	if px.isHere(ctx, m) || ctx.Err() != nil { // if Nix asks for what is here, it must not wait for an upstream
		return nil
	}
	if !px.background.Enter() {
		return nil
	}
	leased, end := context.WithCancel(px.background.Context())
	var shared *spool.Fetch
	var received atomic.Bool
	start := func() bool { // a fetch for this machine is not joined: what it costs is not the neighbours', nor is its end
		shared = px.downloads.shared.Join(px.background.Context(), nar, spool.Call{Name: forOthers(hp), First: true,
			Run: func(ctx context.Context) (*spool.NAR, error) {
				sp, err := px.download(ctx, who, m, &received)
				if err != nil {
					end() // Nix's own fetch may go on in this one's place, and neighbours do not prolong that
				}
				return sp, err
			}})
		return shared != nil
	}
	begun, going := px.jobs.begin(who.Addr, m, start, end)
	if begun {
		go func() {
			defer px.background.Leave()
			defer end()
			defer px.jobs.end(nar)
			if sp, err := shared.Wait(leased); err == nil {
				sp.Close() // it stays in the spool for a while
			}
			if !received.Load() {
				px.jobs.giveBack(who.Addr, m.NarSize())
			}
		}()
	} else {
		end()
		px.background.Leave()
	}
	if !begun && !going {
		return nil
	}
	return px.downloads.await(ctx, m)
}

// isHere reports whether a path is in this machine's sources, and not just arriving.
func (px *proxy) isHere(ctx context.Context, m trust.Mapping) bool {
	hp := m.Path().HashPart()
	if px.downloads.session(hp) != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, peers.InfoTimeout)
	defer cancel()
	return px.server.Has(ctx, hp, m.NarHash()) && px.downloads.session(hp) == nil // it may have begun to arrive meanwhile
}

// download receives a NAR for neighbours, and sets received once it has begun to.
func (px *proxy) download(ctx context.Context, who serve.Asker, m trust.Mapping, received *atomic.Bool) (sp *spool.NAR, err error) {
	if !px.background.Enter() {
		return nil, context.Canceled
	}
	defer px.background.Leave()
	log := px.upstreams.log.With(zap.Stringer("peer", who.ID), zap.Stringer("path", m.Path()))
	a, err := px.downloads.open(m)
	if err != nil {
		log.Debug("not fetched for a neighbour", zap.Error(err))
		return nil, err
	}
	received.Store(true)
	px.jobs.received(m.NarSize())
	defer px.downloads.end(a)
	a.Urge()
	limited, cancel := context.WithTimeout(ctx, store.FetchTime(m.NarSize()))
	defer cancel()
	sp, err = a.Fetch(limited, px.downloads.isSecret(limited, m), true)
	px.downloads.observer.Landed(m, err)
	if err != nil {
		if ctx.Err() == nil { // otherwise nothing wants it any more
			px.jobs.failed.Add(m.NarHash(), time.Now())
		}
		log.Debug("not fetched for a neighbour", zap.Error(err))
		return nil, err
	}
	px.downloads.landed(a, sp)
	log.Debug("fetched for a neighbour", zap.Int64("size", m.NarSize()))
	return sp, nil
}

// assignee returns the neighbour that is to ask the upstream about what has that hash, or nil if that is this node: of
// all that do such things for others and are not left out, the one of the highest score. others is how many took part.
func (px *proxy) assignee(h store.Hash, out func(*peers.Neighbour) bool) (who *peers.Neighbour, others int) {
	best := fetch.WeightSeed(px.host.ID(), h)
	for _, nb := range px.proxies() {
		if out != nil && out(nb) {
			continue
		}
		others++
		if s := fetch.WeightSeed(nb.ID, h); s > best {
			best, who = s, nb
		}
	}
	return who, others
}

// proxies are the neighbours that ask an upstream on behalf of others, and have not failed to of late.
func (px *proxy) proxies() (out []*peers.Neighbour) {
	if !px.cooperates || len(px.upstreams.caches) == 0 {
		return nil
	}
	now := time.Now()
	for _, nb := range px.neighbours.All() {
		if nb.LeftOut(now) == "" && nb.Has(px.protocol) {
			out = append(out, nb)
		}
	}
	return out
}

// advertise lets neighbours know whether this node asks its upstreams for them; that may change.
func (px *proxy) advertise() {
	h := px.host
	shown := slices.Contains(h.Mux().Protocols(), px.protocol)
	switch helps := px.helps(); {
	case helps && !shown:
		h.SetStreamHandler(px.protocol, func(s network.Stream) { s.Reset() })
	case !helps && shown:
		h.RemoveStreamHandler(px.protocol)
	}
}

// Elect implements the rest of [fetch.Swarm].
func (px *proxy) Elect(hp store.HashPart, out func(*peers.Neighbour) bool) (who *peers.Neighbour, others int) {
	return px.assignee(assignmentOf(hp), out)
}
