package serve

import (
	"errors"
	"sync/atomic"

	"narbor/trust"
)

// errUnshared says that a path is here, and that no key which counts has signed it.
var errUnshared = errors.New("here, and not shared")

// staysHere reports whether a path that is not told of is here all the same.
func staysHere(err error) bool {
	return errors.Is(err, errUnshared) || errors.Is(err, trust.ErrBuiltHere) || errors.Is(err, trust.ErrDerivation)
}

// KindCount has the counts of a kind of path.
type KindCount struct {
	Asked int64 `json:"asked"` // paths that neighbours asked for, each time; not what they were told unasked
	Sent  int64 `json:"sent"`  // bytes of NARs
}

// kindCounts counts by kind what neighbours ask for and get. Its methods may be called concurrently.
type kindCounts map[trust.Kind]*kindCount

type kindCount struct{ asked, sent atomic.Int64 }

func newKindCounts() kindCounts {
	k := kindCounts{}
	for _, kind := range trust.Kinds() {
		k[kind] = new(kindCount)
	}
	return k
}

func (k kindCounts) asked(kind trust.Kind) { k[kind].asked.Add(1) }

func (k kindCounts) sent(kind trust.Kind, bytes int) { k[kind].sent.Add(int64(bytes)) }

func (k kindCounts) all() map[trust.Kind]KindCount {
	all := map[trust.Kind]KindCount{}
	for kind, n := range k {
		all[kind] = KindCount{n.asked.Load(), n.sent.Load()}
	}
	return all
}
