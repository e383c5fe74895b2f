package ask

import (
	"slices"
	"time"

	"narbor/p2p/peers"
	"narbor/store/lru"
	"narbor/trust"
)

// files is what questions for files have in common.
type files struct {
	turns chan struct{} // one for each question
	known *lru.Cache[trust.File, knownFile]
	waits peers.BusyWait // beyond filePatience
}

func newFiles() *files {
	return &files{turns: make(chan struct{}, maxFilesAsked), known: lru.New[trust.File, knownFile](maxFilesKnown)}
}

// A knownFile is what neighbours claim about a file, after each has answered. Nix often asks twice.
type knownFile struct {
	claims []trust.Mapping // none: no neighbour has it
	at     time.Time       // before they were asked
}

// holds reports whether the answers still count: for a while, unless a neighbour has come since.
func (k knownFile) holds(neighbours []*peers.Neighbour) bool {
	return time.Since(k.at) < fileKept && !slices.ContainsFunc(neighbours, func(nb *peers.Neighbour) bool { return nb.Since.After(k.at) })
}
