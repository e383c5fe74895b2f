package store

// An Origin says where the bytes of a NAR came from. The names are part of what narbor prints and keeps, and so stay
// what they are.
type Origin string

// What narbor tells apart. What Nix fetches without narbor has no origin here.
const (
	FromNeighbours Origin = "neighbours"       // machines on this network had it
	FromOthers     Origin = "internetByOthers" // a machine on this network fetched it from the internet, for us too
	FromInternet   Origin = "internet"         // narbor on this machine fetched it from an upstream
	FromStore      Origin = "store"            // this machine's own store had it, for a guest
)

// Origins returns all of them, what saves the internet most first.
func Origins() []Origin { return []Origin{FromNeighbours, FromOthers, FromInternet, FromStore} }
