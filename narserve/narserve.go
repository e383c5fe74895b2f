// Package narserve is a Nix binary cache over HTTP, for the Nix on this machine and for guests that are pointed
// at it.
//
//	GET, HEAD /nix-cache-info                            the cache's parameters
//	GET, HEAD /<hash part>.narinfo                       a narinfo written here from a [trust.Mapping]
//	GET, HEAD /nar/<hash part>-<NarHash, base 32>.nar    the archive, uncompressed; GET with Range
//	GET, HEAD /nar/late/<the same>.nar                   the same, where GET is redirected before Nix would hang up
//
// Beside it, for this machine alone, by its loopback names and over its loopback interface:
//
//	GET, HEAD /sha256/<hash, base 16 or base 32>         a file by its content, for Nix's hashed-mirrors; also sha512, sha1, md5
//	GET, HEAD /                                          the page for people
//	GET       /events                                    its parts, as they change: server-sent events
//	GET, HEAD /api/v1/status                             the same as JSON, for programs
//	GET, HEAD /metrics                                   for Prometheus
//	GET, HEAD /healthz                                   "ok"
//
// It guarantees three things. No byte reaches Nix that was not verified before: narinfos hold only the fields of a
// Mapping, and archives come out of a [spool.NAR]. Nix is never worse off for having asked: the answer is 200, 206 or
// 404, in time, whatever happens here, since anything else ends a build on Nix before 2.32. (A method other than GET
// and HEAD, which Nix does not use to substitute, gets 405; a request that a web page may have sent gets 403. An
// archive for which Nix would have stopped waiting is 200 or 404 at the URL to which a redirect leads.) And a NAR's URL
// means the same archive for ever, after a restart and if another machine has the archive by then: Nix remembers the
// URL for 30 days.
package narserve

import (
	"context"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"narbor/narserve/stats"
	"narbor/store"
	"narbor/store/lru"
	"narbor/store/spool"
	"narbor/trust"
)

const (
	// readHeaderTimeout is far above what a client on this machine needs, and ends one that only holds a socket.
	readHeaderTimeout = 10 * time.Second
	// idleTimeout is above the 118 s after which curl, and so Nix, gives up reusing a connection: we never
	// close one that Nix is about to ask on.
	idleTimeout = 3 * time.Minute
	// bodyTimeout bounds how long net/http waits, after our reply, for the body of a request: it is not read, and
	// Nix sends none unless it mistakes us for a cache that it may write to.
	bodyTimeout = 5 * time.Second
	// maxHeaderBytes bounds what a request may make us hold. Nix sends 200 bytes.
	maxHeaderBytes = 16 << 10
)

// AgentPrefix begins the User-Agent of a narbor that asks another as its upstream. It gets paths that are near, and no
// upstream is asked on its behalf: so a narbor that was named as its own upstream does not ask itself without end.
const AgentPrefix = "narbor/"

// DoctorAgent is the User-Agent of `narbor doctor`. Its question is answered with 404 and is not counted as one of Nix's.
const DoctorAgent = "narbor-doctor"

// cacheInfo is served as nix-cache-info. The priority puts us before cache.nixos.org, which has 40.
const cacheInfo = "StoreDir: " + store.Dir + "\nWantMassQuery: 1\nPriority: 30\n"

// Config is what a [Server] needs.
type Config struct {
	Sources []Source // asked in order: this machine's own store first, then the neighbours
	// Upstream is asked about paths that Sources do not have, and has seconds to answer; nil: there is none. Sources can
	// fetch what it finds.
	Upstream func(ctx context.Context, hp store.HashPart) (trust.Mapping, error)

	// File finds store paths that hold nothing but a file, to be tried in that order; nil: there are no such URLs.
	File func(ctx context.Context, f trust.File) ([]trust.Mapping, error)

	Keys *trust.Keys // checks remembered mappings again when their NAR is asked for; nil trusts no key
	// Public are the keys for guests and other machines, which ask by another name or over another interface than this
	// machine's programs: they get only paths that one of these keys has signed; nil: Keys are enough.
	Public  *trust.Keys
	Settled <-chan struct{} // closed once a miss is worth telling Nix; nil: from the start
	Hosts   []string        // names and addresses for which it may be asked, besides localhost and those that it is asked at
	Ahead   int64           // bytes of NARs that may be fetched before Nix asks for them; 0: none
	// Stalled returns Nix's current stalled-download-timeout: Nix hangs up after this time without a byte of a body; 0 is never.
	// It returns at once and may be called concurrently. If it is nil, Nix's default of 300 s counts.
	Stalled func() time.Duration
	Fetches *spool.Fetches // those of the spool, shared with what is fetched for neighbours; nil: the server's own, and no spool
	// Fits fails if a NAR of so many bytes cannot be fetched, as [spool.Spool.Fits] does; nil: every NAR can.
	Fits func(size int64) error
	// Accounts keep what passes; nil keeps them in memory.
	Accounts *stats.Accounts
	Page     Page        // answers what Nix does not ask for; nil: there are no such URLs
	Log      *zap.Logger // nil discards
}

// New returns a server; it starts nothing. The time that it waits for Settled begins now.
func New(cfg Config) *Server {
	log := cfg.Log
	if log == nil {
		log = zap.NewNop()
	}
	s := &Server{resolver: newResolver(cfg.Sources, cfg.Upstream, cfg.Settled, log), access: newAccess(cfg.Hosts, cfg.Public),
		keys: cfg.Keys, counts: newCounts()}
	s.file = cfg.File
	if s.keys == nil {
		s.keys = new(trust.Keys)
	}
	if s.fits = cfg.Fits; s.fits == nil {
		s.fits = func(int64) error { return nil }
	}
	if s.stalled = cfg.Stalled; s.stalled == nil {
		s.stalled = func() time.Duration { return 300 * time.Second }
	}
	if s.accounts = cfg.Accounts; s.accounts == nil {
		s.accounts = stats.New()
	}
	if s.page = cfg.Page; s.page != nil {
		s.page.Register(s.counts.requests, s.counts.seconds)
	}
	if cfg.Fetches == nil {
		cfg.Fetches = spool.NewFetches(nil)
	}
	s.fetches = newFetches(cfg.Fetches, s.fetch)
	s.ahead = newAhead(cfg.Ahead, func(ctx context.Context, m trust.Mapping) error {
		sp, err := s.fetches.do(ctx, m)
		if err == nil {
			err = sp.Close() // it stays in the spool
		}
		return err
	})
	s.mappings = lru.New[store.HashPart, trust.Mapping](maxMappings)
	return s
}

// Stats counts what Nix asked for and got, since the start.
type Stats struct {
	NarinfoHits    int64 `json:"narinfoHits"`
	NarinfoMisses  int64 `json:"narinfoMisses"`
	NarsServed     int64 `json:"narsServed"`     // sent to their last byte
	NarBytesServed int64 `json:"narBytesServed"` // bytes of NARs sent, broken-off ones included
	AheadFetched   int64 `json:"aheadFetched"`   // bytes of NARs fetched before Nix asked for them
	AheadUsed      int64 `json:"aheadUsed"`      // of these, what Nix asked for
}

var (
	notFound  = reply{status: http.StatusNotFound, contentType: "text/plain", text: "not found\n"}
	readOnly  = reply{status: http.StatusMethodNotAllowed, contentType: "text/plain", text: "this cache is read-only\n"}
	forbidden = reply{status: http.StatusForbidden, contentType: "text/plain",
		text: "not for web pages, nor under this name or port, but for Nix: see --allow-host\n"} // Nix takes it for a 404
)

// HTTPServer returns an [http.Server] for s with its limits set. There is no WriteTimeout, which would cut off a
// long NAR; s sets the deadlines of its replies itself.
func (s *Server) HTTPServer() *http.Server {
	open := new(conns)
	srv := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: readHeaderTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		// net/http would answer "OPTIONS *" with 200 by itself.
		DisableGeneralOptionsHandler: true,
		ConnState: func(c net.Conn, state http.ConnState) {
			open.changed(c, state)
			if state == http.StateNew || state == http.StateClosed || state == http.StateHijacked {
				s.ahead.connected(c, state == http.StateNew)
			}
		},
	}
	if s.page != nil {
		srv.RegisterOnShutdown(s.page.Stop)
	}
	if l, err := zap.NewStdLogAt(s.log.Named("server"), zap.WarnLevel); err == nil {
		srv.ErrorLog = l
	}
	return srv
}

// Stats returns the counters.
func (s *Server) Stats() Stats {
	fetched, used := s.ahead.counts()
	return Stats{NarinfoHits: s.counts.hits.Load(), NarinfoMisses: s.counts.misses.Load(), NarsServed: s.counts.nars.Load(),
		NarBytesServed: s.counts.narBytes.Load(), AheadFetched: fetched, AheadUsed: used}
}

// ServeHTTP implements [http.Handler]. All that goes wrong before the first byte of a reply is a 404.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// Errors are those of connections that are gone, or of a recorder, which has no deadlines.
	rc := http.NewResponseController(w)
	_ = rc.SetWriteDeadline(time.Now().Add(writeTimeout))
	if r.ContentLength != 0 {
		_ = rc.SetReadDeadline(time.Now().Add(bodyTimeout))
	}
	if r.ContentLength != 0 || !r.ProtoAtLeast(1, 1) {
		w.Header().Set("Connection", "close") // people disagree on where such a request ends: nothing after it is one
	}
	began, a, sending := time.Now(), notFound, false
	defer func() { s.counts.answered(routeOf(r.URL.Path), a.status, time.Since(began)) }()
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		if p != http.ErrAbortHandler {
			s.logPanic(r, p)
		}
		if sending {
			panic(http.ErrAbortHandler) // the reply has begun: all that is left is to break it off
		}
		a = notFound
		s.send(w, r, a)
	}()
	if refused, ok := s.refusal(r); ok {
		a = refused
	} else {
		var err error
		switch path := r.URL.Path; {
		case path == "/nix-cache-info":
			a = reply{status: http.StatusOK, contentType: "text/x-nix-cache-info", text: cacheInfo}
		case strings.HasSuffix(path, ".narinfo"):
			a, err = s.narinfo(r, strings.TrimSuffix(path[1:], ".narinfo"))
		case strings.HasPrefix(path, "/nar/"):
			a, err = s.nar(r, path[len("/nar/"):])
		default:
			if f, ok := s.fileAsked(path); ok {
				a, err = s.fileReply(r, f)
				break
			}
			a, err = s.pageReply(r)
		}
		if err != nil {
			s.log.Debug("not found", zap.String("url", r.URL.Path), zap.Error(err))
			a = notFound
		}
	}
	sending = true
	s.send(w, r, a)
}

// refusal returns the reply to a request that is refused for its form or its sender, and whether it is.
func (s *Server) refusal(r *http.Request) (reply, bool) {
	if !s.allowed(r) {
		return forbidden, true
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return readOnly, true
	}
	if r.RequestURI != r.URL.Path { // an escape, a query or a host: not Nix's way of writing any URL of ours
		return notFound, true
	}
	return reply{}, false
}

func (s *Server) send(w http.ResponseWriter, r *http.Request, a reply) {
	h := w.Header()
	h.Set("Content-Type", a.contentType)
	for name, value := range a.header {
		h.Set(name, value)
	}
	if a.stream != nil {
		a.stream(w, r)
		return
	}
	if a.nar != nil {
		s.sendNAR(w, r, a)
		return
	}
	if a.status == http.StatusMethodNotAllowed {
		h.Set("Allow", "GET, HEAD")
	}
	h.Set("Content-Length", strconv.Itoa(len(a.text)))
	w.WriteHeader(a.status)
	if r.Method != http.MethodHead {
		_, _ = w.Write([]byte(a.text)) // fails only if Nix has gone
	}
}

// narinfo answers a request for <hash part>.narinfo.
func (s *Server) narinfo(r *http.Request, name string) (reply, error) {
	hp, err := store.ParseHashPart(name)
	if err != nil {
		return reply{}, err
	}
	m, err := s.find(r.Context(), question{hashPart: hp, timeout: narinfoTimeout, near: strings.HasPrefix(r.UserAgent(), AgentPrefix)})
	if err == nil {
		err = s.mayHave(r, m)
	}
	if err == nil {
		err = s.withhold(m)
	}
	if r.UserAgent() == DoctorAgent {
		return notFound, err
	}
	if err != nil {
		s.counts.misses.Add(1)
		if r.Context().Err() == nil { // otherwise Nix has hung up
			s.accounts.NotFound(hp, err)
		}
		return reply{}, err
	}
	s.counts.hits.Add(1)
	s.accounts.Found(m.Path())
	if r.Method == http.MethodGet {
		s.ahead.expect(m)
	}
	text := infoText(m)
	s.remember(m, text)
	return reply{status: http.StatusOK, contentType: "text/x-nix-narinfo", text: text}, nil
}

func (s *Server) pageReply(r *http.Request) (reply, error) {
	if s.page == nil {
		return reply{}, store.ErrNotFound
	}
	a, err := s.page.Answer(r)
	return reply{status: a.Status, contentType: a.ContentType, text: a.Text, stream: a.Stream, header: a.Header}, err
}
