package narserve

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"narbor/store"
	"narbor/store/spool"
	"narbor/trust"
)

const (
	// maxMappingLen is the longest narinfo text, in bytes, that is remembered, so that [maxMappings] of them take
	// 64 MiB at the very worst and about 4 MiB in practice.
	maxMappingLen = 16 << 10
	// chunkSize is how much of a NAR goes out under one write deadline: at [writeTimeout], any client that takes
	// 30 kB/s keeps its connection.
	chunkSize = 16 << 20
)

// nar answers a request for nar/<name> or nar/late/<name>.
func (s *Server) nar(r *http.Request, name string) (reply, error) {
	asked := time.Now()
	base, again := strings.CutPrefix(name, latePrefix)
	hp, narHash, err := parseNarName(base)
	if err != nil {
		return reply{}, err
	}
	m, err := s.mapping(r.Context(), hp, narHash)
	if err == nil {
		err = s.mayHave(r, m)
	}
	if err != nil {
		return reply{}, err
	}
	n := &narReply{m: m, asked: asked, size: m.NarSize(), length: m.NarSize()}
	if r.Method == http.MethodHead { // it asks whether, not for the thing: nothing is fetched
		return n.reply(http.StatusOK), s.obtainable(r.Context(), m)
	}
	if err := s.fetches.enter(); err != nil {
		if again {
			s.endArrival(n, err)
		}
		return reply{}, err
	}
	s.ahead.begin(hp)
	s.accounts.Begin()
	limit, redirect := s.patience(r, n.size)
	ctx, cancel := context.WithDeadline(r.Context(), asked.Add(limit))
	n.done = func() {
		cancel()
		s.accounts.End()
		s.ahead.end()
		s.fetches.life.Leave()
	}
	if again {
		if a, ok := s.arrivals.take(n.key()); ok {
			n.asked = a.asked
			return s.ready(r, n, a)
		}
	}
	fetch, err := s.fetches.join(m)
	if err != nil {
		return s.ready(r, n, arrival{asked: asked, err: err})
	}
	select {
	case <-fetch.Done():
	case <-s.fetches.life.Context().Done():
	case <-ctx.Done():
	case <-redirect:
		if !again {
			base = latePrefix + base
		}
		return s.late(ctx, n, base, fetch), nil
	}
	sp, err := fetch.Wait(ctx)
	return s.ready(r, n, arrival{asked, sp, err})
}

// ready returns the reply with a NAR that has come, or the error of its fetch.
func (s *Server) ready(r *http.Request, n *narReply, a arrival) (_ reply, err error) {
	s.ahead.waited()
	defer func() {
		if err != nil && r.Context().Err() == nil {
			s.accounts.NotServed(n.m, time.Since(n.asked), err)
		}
		if n.file == nil { // after a panic, too
			n.done()
		}
	}()
	if a.err != nil {
		return reply{}, a.err
	}
	n.spooled = a.spooled
	if n.file, err = n.spooled.Open(); err != nil {
		_ = n.spooled.Close()
		s.log.Error("cannot read the spool", zap.Stringer("path", n.m.Path()), zap.Error(err))
		return reply{}, err
	}
	if start, length, unusable := parseRange(r.Header, n.size); unusable == nil {
		n.start, n.length = start, length
		return n.reply(http.StatusPartialContent), nil
	}
	return n.reply(http.StatusOK), nil
}

// mapping returns a mapping for hp with that NarHash: the one that Nix's narinfo was written from, if it is still
// remembered and still believed, else one from the sources.
func (s *Server) mapping(ctx context.Context, hp store.HashPart, narHash store.Hash) (trust.Mapping, error) {
	q := question{hashPart: hp, narHash: &narHash, timeout: mappingTimeout}
	if m, ok := s.mappings.Get(hp); ok && q.answeredBy(m) {
		if s.keys.Trusts(m) {
			return m, nil
		}
		s.mappings.Remove(hp)
	}
	m, err := s.find(ctx, q)
	if err == nil {
		s.remember(m, infoText(m)) // Nix may come back for the rest
	}
	return m, err
}

// obtainable returns why GET of a NAR would fail, as far as that is known: it is malformed, or this machine's copy is
// damaged and no other source has one.
func (s *Server) obtainable(ctx context.Context, m trust.Mapping) error {
	nar := m.NarHash()
	q := question{hashPart: m.Path().HashPart(), narHash: &nar, timeout: mappingTimeout}
	if err := s.fetches.refused(fetchKey{q.hashPart, nar}); err != nil {
		return err
	}
	own := slices.DeleteFunc(slices.Clone(s.sources), func(src *source) bool { return src.origin() != store.FromStore })
	if _, err := s.ask(ctx, q, own); !errors.Is(err, store.ErrDamaged) {
		return nil
	}
	_, err := s.find(ctx, q)
	return err
}

// fetch returns the NAR from the first source that can produce it, and logs why there is none. A source that is stuck
// leaves at least half of the time to the next. While discovery has not settled, the sources are tried twice: after a
// restart, the first neighbour that is found again may be one that lies.
func (s *Server) fetch(ctx context.Context, m trust.Mapping) (*spool.NAR, error) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, store.FetchTime(m.NarSize()))
	defer cancel()
	until, _ := ctx.Deadline()
	for again := false; ; again = true {
		settled := again || s.hasSettled()
		errs := []error{store.ErrNotFound} // if there are no sources
		for i, src := range s.sources {
			sp, err := guard(func() (*spool.NAR, error) {
				ctx, cancel := context.WithTimeout(ctx, time.Until(until)/time.Duration(len(s.sources)-i))
				defer cancel()
				return src.Fetch(ctx, m)
			})
			if err == nil {
				err = checkFetched(sp, m)
			}
			if err != nil {
				err = fmt.Errorf("%s: %w", src.name, err)
			}
			s.accounts.Fetched(m, src.origin(), err)
			if err == nil {
				return sp, nil
			}
			if errors.Is(err, store.ErrMalformed) { // every source would have the same bytes
				return nil, s.notFetched(m, began, err)
			}
			errs = append(errs, err)
		}
		err := errors.Join(causes(append(errs, ctx.Err()))...)
		if settled || errors.Is(err, store.ErrNoSpace) || !s.settle(ctx) {
			return nil, s.notFetched(m, began, err)
		}
	}
}

// notFetched logs why there is no NAR, and returns the error for Nix.
func (s *Server) notFetched(m trust.Mapping, began time.Time, err error) error {
	switch {
	case errors.Is(err, store.ErrMalformed):
		s.log.Warn("a signed nar is malformed; nix never sees it", zap.Stringer("path", m.Path()), zap.Error(err))
	case !errors.Is(err, context.Canceled): // that is Nix hanging up
		s.log.Warn("nar not fetched; nix asks its next substituter", zap.Stringer("path", m.Path()),
			zap.Int64("size", m.NarSize()), zap.Duration("dur", time.Since(began)), zap.Error(err))
	}
	return fmt.Errorf("%s: %w: %w", m.Path(), store.ErrNotFound, err)
}

// causes leaves out the errors that only say that a source does not have the NAR, unless there are no others.
func causes(errs []error) []error {
	errs = slices.DeleteFunc(errs, func(err error) bool { return err == nil })
	why := slices.DeleteFunc(slices.Clone(errs), onlyNotFound)
	switch {
	case len(why) > 0:
		return why
	case len(errs) > 0:
		return errs[len(errs)-1:] // neighbours come after this machine's own stores
	}
	return nil
}

// onlyNotFound reports whether no error that err wraps is anything but [store.ErrNotFound].
func onlyNotFound(err error) bool {
	switch e := err.(type) {
	case interface{ Unwrap() []error }:
		return len(e.Unwrap()) > 0 && !slices.ContainsFunc(e.Unwrap(), func(err error) bool { return !onlyNotFound(err) })
	case interface{ Unwrap() error }:
		return onlyNotFound(e.Unwrap())
	}
	return err == store.ErrNotFound
}

// checkFetched fails, and closes the NAR, if it is not the mapping's.
func checkFetched(sp *spool.NAR, m trust.Mapping) error {
	if sp == nil || sp.Hash() != m.NarHash() || sp.Size() != m.NarSize() {
		if sp != nil {
			_ = sp.Close()
		}
		return fmt.Errorf("%w: returned another nar", store.ErrCorrupt)
	}
	return nil
}

// sendNAR writes a reply that has a NAR. Nothing wraps w and nothing but [io.LimitedReader] the file, so that
// net/http lets the kernel copy (sendfile).
func (s *Server) sendNAR(w http.ResponseWriter, r *http.Request, a reply) {
	n := a.nar
	defer n.close()
	h := w.Header()
	h.Set("Accept-Ranges", "bytes")
	h.Set("Content-Length", strconv.FormatInt(n.length, 10))
	if a.status == http.StatusPartialContent {
		h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", n.start, n.start+n.length-1, n.size))
	}
	w.WriteHeader(a.status)
	if n.file == nil {
		return
	}
	err := s.copyNAR(w, n)
	whole := err == nil && n.start+n.length == n.size
	took := time.Since(n.asked)
	came := s.accounts.Served(n.m, n.sent, took, whole)
	if err != nil {
		if r.Context().Err() == nil {
			s.log.Warn("sending a nar broke off", zap.Stringer("path", n.m.Path()), zap.Error(err))
		}
		panic(http.ErrAbortHandler) // the entry stays in the spool: Nix may come back for the rest
	}
	if whole {
		s.log.Info("substituted", zap.String("path", n.m.Path().Name()), zap.Int64("size", n.size),
			zap.Duration("dur", took.Round(time.Millisecond)),
			zap.String("from", cmp.Or(strings.Join(came.From, " "), string(came.Origin))))
		s.counts.nars.Add(1)
		n.spooled.Used()
	}
}

// copyNAR writes the range and returns once all of it has left our own buffers.
func (s *Server) copyNAR(w http.ResponseWriter, n *narReply) error {
	if _, err := n.file.Seek(n.start, io.SeekStart); err != nil {
		return err
	}
	rc := http.NewResponseController(w)
	for rest := n.length; rest > 0; {
		_ = rc.SetWriteDeadline(time.Now().Add(writeTimeout)) // as in ServeHTTP
		sent, err := io.CopyN(w, n.file, min(rest, chunkSize))
		rest -= sent
		n.sent += sent
		s.counts.narBytes.Add(sent)
		if err != nil {
			return err
		}
	}
	return rc.Flush()
}

// remember keeps a mapping for the request for its NAR. Its narinfo is text.
func (s *Server) remember(m trust.Mapping, text string) {
	if len(text) <= maxMappingLen {
		s.mappings.Add(m.Path().HashPart(), m)
	}
}

func (s *Server) logPanic(r *http.Request, p any) {
	s.log.Error("request panicked", zap.String("url", r.URL.Path), zap.Any("panic", p), zap.ByteString("stack", debug.Stack()))
}

func infoText(m trust.Mapping) string {
	return m.Info().Narinfo("nar/" + narName(m.Path().HashPart(), m.NarHash()))
}
