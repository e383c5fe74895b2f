package store

// An Origin says where the bytes of a NAR came from. The names are part of narbor's output and files, and so do not
// change.
type Origin string

// The origins that narbor distinguishes. Archives that Nix fetches without narbor have none.
const (
	FromNeighbours Origin = "neighbours"       // machines on this network had it
	FromOthers     Origin = "internetByOthers" // a machine on this network fetched it from the internet, for us too
	FromInternet   Origin = "internet"         // narbor on this machine fetched it from an upstream
	FromRebuild    Origin = "rebuilt"          // narbor made it out of another version of the path in this machine's store
	FromStore      Origin = "store"            // this machine's own store had it, for a guest
)

// Origins returns all origins; those that save the most internet traffic come first.
func Origins() []Origin {
	return []Origin{FromNeighbours, FromRebuild, FromOthers, FromInternet, FromStore}
}
