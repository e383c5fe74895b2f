package narserve

import (
	"errors"
	"net/http"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"narbor/narserve/stats"
	"narbor/store"
	"narbor/store/lru"
	"narbor/store/spool"
	"narbor/trust"
)

// Server is an [http.Handler] that speaks Nix's binary cache protocol. Use [New].
type Server struct {
	resolver
	access
	keys     *trust.Keys
	mappings *lru.Cache[store.HashPart, trust.Mapping]
	fetches  *fetches
	arrivals arrivals
	ahead    *ahead
	accounts *stats.Accounts
	page     Page // may be nil
	counts   *counts
	fits     func(size int64) error
	stalled  func() time.Duration
}

// A Page answers requests for URLs that are for browsers and programs of this machine. Its methods may be called
// concurrently.
type Page interface {
	// Answer's error wraps [store.ErrNotFound] if there is no such URL.
	Answer(r *http.Request) (Reply, error)
	// Register adds metrics of requests to those that it shows. It is called once, before the other methods.
	Register(metrics ...prometheus.Collector)
	// Stop ends all streams, and keeps new ones from starting.
	Stop()
}

// A Reply is the answer of a [Page]. Stream writes it if that is not nil, and ends with the request; otherwise Text is
// all of it.
type Reply struct {
	Status      int
	ContentType string
	Text        string
	Header      map[string]string // further ones
	Stream      http.HandlerFunc
}

// A reply is decided on completely before its first byte is written: whatever goes wrong until then is a 404.
// At most one of text, nar and stream is set.
type reply struct {
	status      int
	contentType string
	text        string
	nar         *narReply
	stream      http.HandlerFunc
	header      map[string]string // further ones
}

// writeTimeout bounds each reply that is not a NAR, and each [chunkSize] of one that is. Nix stops reading
// for 10 s and more while it unpacks to a slow disk, and for as long as a user suspends it; a NAR that
// broke off here is resumed. It has to be longer than [mostStalled], for it starts with the request.
const writeTimeout = 10 * time.Minute

// A narReply is a NAR, or a range of it, on its way out. Without a file it is the answer to HEAD.
type narReply struct {
	m             trust.Mapping
	spooled       *spool.NAR
	file          *os.File
	start, length int64
	size          int64
	sent          int64     // of length
	asked         time.Time // when Nix did
	done          func()    // called once Nix has it, or has gone
}

func (n *narReply) key() fetchKey { return fetchKey{n.m.Path().HashPart(), n.m.NarHash()} }

func (n *narReply) close() {
	if n.file == nil {
		return
	}
	// Only read from, and the spool has its own handle: there is nothing that an error would change.
	_ = n.file.Close()
	_ = n.spooled.Close()
	n.done()
}

func (n *narReply) reply(status int) reply {
	return reply{status: status, contentType: "application/x-nix-nar", nar: n}
}

// withhold fails if the NAR of a mapping cannot reach Nix, so that its narinfo must not either, and logs a limit of
// this machine that is the cause.
func (s *Server) withhold(m trust.Mapping) error {
	err := s.Obstacle(m.Path().HashPart(), m.NarHash(), m.NarSize())
	if errors.Is(err, store.ErrNoSpace) {
		s.log.Warn("a nar does not fit into the spool; nix asks its next substituter; see --spool-size and --min-free",
			zap.Stringer("path", m.Path()), zap.Int64("size", m.NarSize()), zap.Error(err))
	}
	return err
}

// Obstacle says why Nix is told that a path is not here although a source has it; nil if it is not.
func (s *Server) Obstacle(hp store.HashPart, narHash store.Hash, narSize int64) error {
	if err := s.fits(narSize); err != nil {
		return err
	}
	return s.fetches.refused(fetchKey{hp, narHash})
}
