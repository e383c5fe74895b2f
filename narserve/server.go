package narserve

import (
	"net/http"
	"os"
	"time"

	"narbor/narserve/dashboard"
	"narbor/narserve/stats"
	"narbor/store"
	"narbor/store/lru"
	"narbor/store/spool"
	"narbor/trust"
)

// Server is an [http.Handler] that speaks Nix's binary cache protocol. Use [New].
type Server struct {
	lookup
	access
	keys     *trust.Keys
	mappings *lru.Cache[store.HashPart, trust.Mapping]
	fetches  fetches
	arrivals arrivals
	ahead    *ahead
	accounts *stats.Accounts
	page     *dashboard.Page
	counts   *counts
	fits     func(size int64) error
	stalled  func() time.Duration
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
