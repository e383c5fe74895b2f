package narserve

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"narbor/narserve/stats"
	"narbor/store"
	"narbor/store/spool"
	"narbor/trust"
)

const (
	// narinfoTimeout bounds the delay that we add to each path that is not near, unless a [Patient] source is busy: Nix waits
	// for our 404 before it asks its next substituter. Our own database answers within 1 ms and a neighbour within 5, so one that needs
	// longer than this is stuck or asleep, and worse than the internet. Nix asks for 25 paths at a time, so that
	// even if every answer took this long a closure of 1,000 paths would lose 12 s once.
	narinfoTimeout = 300 * time.Millisecond
	// mappingTimeout is the same for a NAR without a remembered mapping. Nix was promised this path and its download
	// takes far longer than a question, so waiting costs less here than a 404.
	mappingTimeout = 2 * time.Second
	// upstreamTimeout bounds what a slow upstream can add to each path, before Nix asks it itself. It is longer than an
	// upstream takes to be given up.
	upstreamTimeout = 6 * time.Second
	// settleTimeout bounds, from the start, how long a miss waits for discovery to settle. Nix remembers a 404
	// for an hour, so a narbor that was only just started, maybe by this very request through its socket, would
	// be useless for the build that it was started for. Discovery takes 2 s at most.
	settleTimeout = 2 * time.Second
	// maxLookups bounds the questions that a source is asked at a time, so that one that is stuck does not
	// collect goroutines for ever. Nix asks 25 at a time for each build.
	maxLookups = 256
)

// errClosed means that the server has ended, or has ended a fetch.
var errClosed = fmt.Errorf("%w: %w", stats.ErrStopping, store.ErrNotFound)

// A source is a [Source] with its state in the server.
type source struct {
	Source
	name    string        // for the log
	patient time.Duration // how long it may take to answer, if that is longer than others may; else 0
	slots   chan struct{} // one for each question that it is working on
	failing atomic.Bool   // its last answer was an error
}

// origin returns the origin of the source's NARs, unless the source reports another one.
func (src *source) origin() store.Origin {
	if _, ok := src.Source.(local); ok {
		return store.FromStore
	}
	return store.FromNeighbours
}

func newSource(src Source, name string) *source {
	s := &source{Source: src, name: name, slots: make(chan struct{}, maxLookups)}
	if p, ok := src.(Patient); ok {
		s.patient = p.Patience()
	}
	return s
}

// A finder is a [Source] that finds, and leaves it to others to fetch.
type finder func(context.Context, store.HashPart) (trust.Mapping, error)

func (f finder) Lookup(ctx context.Context, hp store.HashPart) (trust.Mapping, error) {
	return f(ctx, hp)
}

func (finder) Fetch(context.Context, trust.Mapping) (*spool.NAR, error) {
	return nil, store.ErrNotFound
}

type question struct {
	hashPart store.HashPart
	narHash  *store.Hash // nil: any
	timeout  time.Duration
	near     bool // the upstream is not to be asked
}

// answeredBy says whether m is an answer. A source may know a path by another NarHash if its build is not
// reproducible and two upstreams have signed it.
func (q question) answeredBy(m trust.Mapping) bool {
	return !m.Path().IsZero() && m.Path().HashPart() == q.hashPart && (q.narHash == nil || *q.narHash == m.NarHash())
}

// patience returns how long the slowest of some sources may take.
func (q question) patience(sources ...*source) time.Duration {
	most := q.timeout
	for _, src := range sources {
		most = max(most, src.patient)
	}
	return most
}

// A resolver finds the mappings of paths: it asks the sources. Its methods may be called concurrently.
type resolver struct {
	sources  []*source
	upstream []*source // at most one
	settled  <-chan struct{}
	started  time.Time
	file     func(context.Context, trust.File) ([]trust.Mapping, error) // finds a file by its content; nil finds none
	log      *zap.Logger
	closed   chan struct{} // closed once no source is to be asked any more
}

// newResolver returns a resolver with these sources. Its wait for settled begins now.
func newResolver(sources []Source, upstream finder, settled <-chan struct{}, log *zap.Logger) resolver {
	r := resolver{settled: settled, started: time.Now(), log: log, closed: make(chan struct{})}
	if r.settled == nil {
		closed := make(chan struct{})
		close(closed)
		r.settled = closed
	}
	for _, src := range sources {
		r.sources = append(r.sources, newSource(src, fmt.Sprintf("%T", src)))
	}
	if upstream != nil {
		r.upstream = []*source{newSource(upstream, "upstream")}
	}
	return r
}

type answer struct {
	m   trust.Mapping
	err error
	src *source
}

// find returns a mapping that answers q: the sources', or the upstream's. While discovery has not settled, it has the
// patience to ask the sources twice.
func (r *resolver) find(ctx context.Context, q question) (trust.Mapping, error) {
	settled := r.hasSettled()
	m, err := r.ask(ctx, q, r.sources)
	if err != nil && len(r.upstream) > 0 && !q.near {
		up := q
		up.timeout = upstreamTimeout
		m, err = r.ask(ctx, up, r.upstream)
	}
	if err == nil || settled {
		return m, err
	}
	if !r.settle(ctx) {
		return trust.Mapping{}, fmt.Errorf("%s: %w: %w", q.hashPart, store.ErrNotFound, stats.ErrNoAnswer)
	}
	return r.ask(ctx, q, r.sources)
}

// settle waits until a miss is final. It returns false if ctx ends before.
func (r *resolver) settle(ctx context.Context) bool {
	t := time.NewTimer(time.Until(r.started.Add(settleTimeout)))
	defer t.Stop()
	select {
	case <-r.settled:
	case <-t.C:
	case <-ctx.Done():
		return false
	}
	return true
}

// hasSettled says whether a miss is final.
func (r *resolver) hasSettled() bool {
	select {
	case <-r.settled:
		return true
	default:
		return time.Since(r.started) >= settleTimeout
	}
}

// ask puts q to sources in order and returns the first answer. The next source's turn comes when one has said
// no, or has said nothing for its share of the time; a late answer still counts. It returns in time even if a
// source ignores its context, unless that is [Patient]: once those that have not answered have had their time. So each
// source is asked in a goroutine of its own, but for a Patient one that is the last.
func (r *resolver) ask(ctx context.Context, q question, sources []*source) (trust.Mapping, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answers := make(chan answer, len(sources)) // no sender ever waits
	start, share := time.Now(), q.timeout/time.Duration(len(sources)+1)
	turn, limit := time.NewTicker(share), time.NewTimer(q.timeout)
	defer turn.Stop()
	defer limit.Stop()
	var pending []*source
	next, none := 0, store.ErrNotFound
	for {
		if next < len(sources) {
			src := sources[next]
			put := func() {
				ctx, stop := context.WithDeadline(ctx, start.Add(q.patience(src)))
				defer stop()
				if err := r.enter(ctx, src); err != nil {
					answers <- answer{err: err, src: src}
					return
				}
				defer func() { <-src.slots }()
				m, err := guard(func() (trust.Mapping, error) { return src.Lookup(ctx, q.hashPart) })
				r.noteHealth(src, err)
				if err == nil && !q.answeredBy(m) {
					err = fmt.Errorf("%s: %w", q.hashPart, store.ErrNotFound)
				}
				answers <- answer{m, err, src}
				if err == nil {
					cancel() // ends the question to a source that is asked in the caller's goroutine
				}
			}
			if src.patient > 0 && next == len(sources)-1 {
				put()
			} else {
				go put()
			}
			turn.Reset(share)
			next, pending = next+1, append(pending, src)
		}
		if len(pending) == 0 {
			return trust.Mapping{}, none
		}
		limit.Reset(time.Until(start.Add(q.patience(slices.Concat(pending, sources[next:])...))))
		select {
		case a := <-answers:
			if a.err == nil {
				return a.m, nil
			}
			pending = slices.DeleteFunc(pending, func(src *source) bool { return src == a.src })
			none = a.reason(none, q)
			continue
		case <-turn.C:
			continue
		case <-limit.C:
		case <-ctx.Done():
		}
		return lastAnswer(answers, q)
	}
}

// lastAnswer returns the answer that has come at the very moment at which the wait for it ended.
func lastAnswer(answers <-chan answer, q question) (trust.Mapping, error) {
	for len(answers) > 0 {
		if a := <-answers; a.err == nil {
			return a.m, nil
		}
	}
	return trust.Mapping{}, noAnswer(q)
}

// enter waits for one of the source's slots, which the caller gives back.
func (r *resolver) enter(ctx context.Context, src *source) error {
	select {
	case src.slots <- struct{}{}:
		return nil
	case <-r.closed:
		return errClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// close has no source asked any more, and returns once none works on a question. It is called once.
func (r *resolver) close() {
	close(r.closed)
	for _, src := range slices.Concat(r.sources, r.upstream) {
		for range cap(src.slots) {
			src.slots <- struct{}{}
		}
	}
}

// reason returns the error with which q is answered if no source has the path: the one so far, unless this answer says more.
func (a answer) reason(sofar error, q question) error {
	if errors.Is(a.err, trust.ErrUntrusted) && a.src.origin() != store.FromStore || errors.Is(a.err, store.ErrDamaged) ||
		errors.Is(a.err, store.ErrUnreadable) || errors.Is(a.err, store.ErrSlow) || errors.Is(a.err, stats.ErrStopping) {
		return a.err // it is near all the same, or may be: the server stops
	}
	if errors.Is(a.err, context.DeadlineExceeded) && sofar == store.ErrNotFound {
		return noAnswer(q)
	}
	return sofar
}

// noAnswer returns the error of a question that a source has left without an answer.
func noAnswer(q question) error {
	return fmt.Errorf("%s: %w: %w", q.hashPart, store.ErrNotFound, stats.ErrNoAnswer)
}

// noteHealth logs the first failure of a source in a row, and the end of the row: Nix asks for thousands of paths.
func (r *resolver) noteHealth(src *source, err error) {
	switch {
	case err == nil || errors.Is(err, store.ErrNotFound):
		if src.failing.CompareAndSwap(true, false) {
			r.log.Info("source answers again", zap.String("source", src.name))
		}
	case errors.Is(err, context.Canceled): // another source was faster, or Nix went away
	default:
		if src.failing.CompareAndSwap(false, true) {
			r.log.Warn("source fails; nix gets 404 for what only it has", zap.String("source", src.name), zap.Error(err))
		}
	}
}

// guard calls f and turns its panic into an error. Code of a source may run in a goroutine of its own, where a panic
// would otherwise end the program and with it every build that waits for an answer.
func guard[T any](f func() (T, error)) (v T, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return f()
}
