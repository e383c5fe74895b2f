package stats

import (
	"cmp"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"narbor/store"
)

const (
	// accountSchema changes with the meaning of a field of [Account], not with a new one.
	accountSchema = 1
	// maxDays is how many days are kept apart; older days are forgotten.
	maxDays = 366
	// maxPeers and maxNames bound the peers and packages with accounts; those with the fewest bytes go.
	maxPeers, maxNames = 64, 256
	// quarters is how many quarters of an hour are kept apart: a day's.
	quarters, quarter = 96, 15 * time.Minute
	// maxRequests bounds the latest requests that are remembered.
	maxRequests = 50
	// upstreamName is the name under which the shares of peers have the bytes from upstreams.
	upstreamName = "upstream"
	// maxFrom bounds the peers named in a request or a transfer.
	maxFrom = 8
	// internetRate is the assumed rate of Nix's own downloads, in bytes of NARs a second, to say how much time
	// was saved: 50 Mbit/s of archives packed to a quarter. It is an assumption, and every figure made of it an
	// estimate.
	internetRate = 25e6
)

// Amounts are sums over some time. Bytes are those of NARs, uncompressed.
type Amounts struct {
	Received     map[store.Origin]int64 `json:"received"`     // bytes that Nix was given, by where they came from
	ByNix        int64                  `json:"byNix"`        // bytes that Nix fetched itself, as far as is known: at least these
	ByNixPaths   int64                  `json:"byNixPaths"`   // store paths that these were
	Sent         int64                  `json:"sent"`         // bytes that neighbours were given
	NARs         int64                  `json:"nars"`         // given to Nix to their last byte
	Found        int64                  `json:"found"`        // questions of Nix for a path that were answered with it
	Missed       int64                  `json:"missed"`       // and those that were not
	Seconds      float64                `json:"seconds"`      // during which Nix was waiting for, or receiving NARs
	SavedSeconds float64                `json:"savedSeconds"` // estimate: how much longer the same bytes would have taken from the internet
}

// Saved returns the bytes that this machine did not download from the internet: neighbours had or downloaded them, or
// they were rebuilt here.
func (a Amounts) Saved() int64 {
	return a.Received[store.FromNeighbours] + a.Received[store.FromOthers] + a.Received[store.FromRebuild]
}

// FromNetwork returns the part of [Amounts.Saved] that came from neighbours.
func (a Amounts) FromNetwork() int64 { return a.Saved() - a.Received[store.FromRebuild] }

// SavedOf is of how many bytes that was, as far as is known: those that the internet gave included.
func (a Amounts) SavedOf() int64 { return a.Saved() + a.Received[store.FromInternet] + a.ByNix }

// Add adds the amounts of another time.
func (a *Amounts) Add(b Amounts) {
	for o, n := range b.Received {
		a.receive(o, n)
	}
	a.ByNix += b.ByNix
	a.ByNixPaths += b.ByNixPaths
	a.Sent += b.Sent
	a.NARs += b.NARs
	a.Found += b.Found
	a.Missed += b.Missed
	a.Seconds += b.Seconds
	a.SavedSeconds += b.SavedSeconds
}

func (a *Amounts) receive(o store.Origin, n int64) {
	if a.Received == nil {
		a.Received = map[store.Origin]int64{}
	}
	a.Received[o] += n
}

func (a Amounts) clone() Amounts {
	a.Received = maps.Clone(a.Received)
	if a.Received == nil {
		a.Received = map[store.Origin]int64{}
	}
	return a
}

// Day has the amounts of a day in this machine's time zone.
type Day struct {
	Date string `json:"date"` // 2006-01-02
	Amounts
}

// Quarter has the amounts of a quarter of an hour.
type Quarter struct {
	Start time.Time `json:"start"`
	Amounts
}

// Share has the amounts of a peer or of a package, for as long as accounts are kept.
type Share struct {
	Name     string    `json:"name"`     // the peer's ID, or the package's name without its version
	Received int64     `json:"received"` // bytes
	Sent     int64     `json:"sent"`     // bytes
	Last     time.Time `json:"last"`
}

// Results of a request.
const (
	ResultHit      = "hit"      // a NAR was given to Nix
	ResultFound    = "found"    // Nix was told that it can have a path
	ResultMiss     = "miss"     // there is none: Nix asks its next substituter
	ResultRejected = "rejected" // it was offered, and not believed: Nix asks its next substituter
)

// resultTimeout is a miss by timeout, without a negative answer, in metrics.
const resultTimeout = "timeout"

// ErrNoAnswer means that the time for an answer was over before a source gave one.
var ErrNoAnswer = errors.New("no answer in time")

// ErrStopping means that this narbor has ended a fetch because it stops.
var ErrStopping = errors.New("narbor is stopping")

// Request is one of Nix's, or several alike in a row.
type Request struct {
	Time    time.Time    `json:"time"`   // when the last was answered
	Path    string       `json:"path"`   // the last store path's base name, or its hash part if no more is known
	Result  string       `json:"result"` // one of the constants
	Reason  string       `json:"reason,omitempty"`
	Count   int          `json:"count"`
	Bytes   int64        `json:"bytes"`
	Seconds float64      `json:"seconds"`
	Origin  store.Origin `json:"origin,omitempty"`
	From    []string     `json:"from,omitempty"` // peer IDs, the largest giver first; at most 8
}

// Transfer is a NAR under way.
type Transfer struct {
	Incoming bool         `json:"incoming"`
	Path     string       `json:"path"` // base name
	Size     int64        `json:"size"` // bytes of the NAR
	Bytes    int64        `json:"bytes"`
	Seconds  float64      `json:"seconds"`
	Origin   store.Origin `json:"origin,omitempty"`
	Peers    []string     `json:"peers"` // IDs, the largest giver first; at most 8
}

// An Update has the amounts that Nix got without a pause of two minutes: from narbor, of any origin, and what it
// fetched itself, as far as is known. Sent, Found and Missed stay 0.
type Update struct {
	Start time.Time `json:"start"` // the first question for a path
	End   time.Time `json:"end"`   // the last request for which there was something
	// From has the IDs of the neighbours that the NARs of origin [store.FromNeighbours] came from, the one with the
	// most bytes first, after those from before a restart; at most 8. A NAR from several counts for the one that gave
	// most of it.
	From []string `json:"from,omitempty"`
	Amounts
}

// Account has all amounts at a moment. It is the answer to `narbor stats --json`.
type Account struct {
	Schema   int        `json:"schema"`
	Since    time.Time  `json:"since"`          // when accounts were begun
	Note     string     `json:"note,omitempty"` // the error of the file they are kept in
	Days     []Day      `json:"days"`           // the oldest first
	Quarters []Quarter  `json:"quarters"`       // of the last 24 hours, the oldest first, empty ones too
	Peers    []Share    `json:"peers"`          // the most bytes first
	Names    []Share    `json:"names"`          // likewise
	Requests []Request  `json:"requests"`       // the latest first
	Now      []Transfer `json:"now"`

	LastUpdate *Update `json:"lastUpdate,omitempty"`
	Rates      Rates   `json:"rates"`
}

// Sum adds up the last days, today included; 0 is all that are kept.
func (a Account) Sum(days int) Amounts {
	sum := Amounts{}.clone()
	first := ""
	if days > 0 {
		first = time.Now().AddDate(0, 0, 1-days).Format(time.DateOnly)
	}
	for _, d := range a.Days {
		if d.Date >= first {
			sum.Add(d.Amounts)
		}
	}
	return sum
}

// isPeer reports whether the name of a sender of a NAR is the ID of a peer.
func isPeer(name string) bool { return name != "" && name != upstreamName }

// parties has the shares of peers, by ID, and of packages, by name.
type parties struct {
	peers, names shares
}

// maxAway and awayFor bound the list of peers that are not here.
const maxAway, awayFor = 5, 30 * 24 * time.Hour

// Away returns the peers with which something passed in the last 30 days and that are not here now, the latest first;
// at most 5.
func (a Account) Away(here func(id string) bool, now time.Time) []Share {
	away := []Share{}
	for _, s := range a.Peers {
		if isPeer(s.Name) && now.Sub(s.Last) < awayFor && !here(s.Name) {
			away = append(away, s)
		}
	}
	slices.SortStableFunc(away, func(a, b Share) int { return b.Last.Compare(a.Last) })
	return away[:min(len(away), maxAway)]
}

// shares is what passed by peer or by package name, at most twice as many as are kept.
type shares map[string]*Share

func (s shares) of(name string, keep int, now time.Time) *Share {
	sh := s[name]
	if sh == nil {
		if len(s) >= 2*keep {
			for _, small := range s.list()[keep:] {
				delete(s, small.Name)
			}
		}
		sh = &Share{Name: name}
		s[name] = sh
	}
	sh.Last = now
	return sh
}

// list returns the shares, the largest first.
func (s shares) list() []Share {
	out := make([]Share, 0, len(s))
	for _, sh := range s {
		out = append(out, *sh)
	}
	slices.SortFunc(out, func(a, b Share) int {
		return cmp.Or(cmp.Compare(b.Received+b.Sent, a.Received+a.Sent), cmp.Compare(a.Name, b.Name))
	})
	return out
}

// packageName is the name of a store path without what Nix takes for a version: from the first dash on that no letter
// follows.
func packageName(p store.Path) string {
	name := p.Name()
	for i := 1; i+1 < len(name); i++ {
		if c := name[i+1] | 0x20; name[i] == '-' && (c < 'a' || c > 'z') {
			return name[:i]
		}
	}
	return strings.TrimSuffix(name, "-")
}
