package dashboard

import "time"

// Facts is what the page, the API and the metrics show beside the accounts: what other parts of narbor know at a moment.
type Facts struct {
	Status  any // the answer to /api/v1/status
	Version string
	Started time.Time
	ID      string
	NixFacts
	ShareFacts
	NetworkFacts
	UpstreamFacts
	Spool  SpoolUse
	Health []Health
}

// NixFacts say how Nix uses narbor.
type NixFacts struct {
	Listen  []string // addresses at which Nix asks
	NixConf string   // the line for nix.conf
	NixAsks bool     // that line, or one like it, is in force
	Keys    []string // names of the keys that are trusted
}

// ShareFacts say what neighbours may have.
type ShareFacts struct {
	Sharing   bool     // neighbours may have something
	Paused    bool     // the user lets neighbours have nothing
	ShareFrom []string // the store and cache directories
	ShareKeys []string // names of the keys that sign shared paths
	// PrivateKeys are names of keys: what only they have signed is for members of the group.
	PrivateKeys []string
	// CircleKeys are names of keys: what was built here and one of them has signed is for members of the group, too.
	CircleKeys []string
	Sources    bool  // fetched sources are shared without a signature
	UploadRate int64 // bytes a second; 0 is no limit
	Group      bool  // only members of a group are asked and answered
	Kinds      []ShareKind
}

// ShareKind is a kind of path, with which machines it is shared, and how much of it since the start.
type ShareKind struct {
	Kind  string `json:"kind"`
	With  string `json:"with"`
	Asked int64  `json:"asked"` // paths that neighbours asked for, each time; not what they were told unasked
	Sent  int64  `json:"sent"`  // bytes of NARs
}

// NetworkFacts describe the network, and count the problems with it since the start.
type NetworkFacts struct {
	Neighbours []Neighbour
	Banned     []Banned
	Interfaces []Interface
	Rejected   map[string]int64            // what neighbours sent and was not believed, by reason
	Bans       map[string]int64            // by reason
	Networks   int64                       // changes of networks
	Discovery  map[string]map[string]int64 // what went by multicast DNS, by kind and result
}

// UpstreamFacts say which caches on the internet are asked, and by which machine.
type UpstreamFacts struct {
	Upstreams []UpstreamUse
	ForOthers int64  // bytes of NARs that neighbours have asked to be downloaded, since the start
	Alone     string // why nothing is downloaded for them; "" if it is
	Helpers   int    // neighbours that download for this machine
}

// UpstreamUse is a cache on the internet that is asked for what no neighbour has.
type UpstreamUse struct {
	URL      string // without a user and a password
	Down     bool   // it does not answer
	Received int64  // bytes of archives since the start, compressed as they were
}

// Neighbour is a connected peer. Whatever is text may come from it.
type Neighbour struct {
	ID, Addr, Via  string
	Name           string // what it calls itself; "" is none
	Since          time.Time
	Received, Sent int64 // bytes of NARs since the start
	Strikes        int64
}

// Banned is a peer that is refused because of its strikes; Reason is the last of them.
type Banned struct {
	ID, Reason string
	Until      time.Time
}

// Interface is a network interface, and if it is not used, why not.
type Interface struct {
	Name, Reason string
	Used         bool
}

// SpoolUse is how full the spool is, in bytes.
type SpoolUse struct {
	Bytes, MaxBytes int64
	Entries         int
	Verified        int64         // NARs that were here as a whole and so were checked, since the start
	VerifyTime      time.Duration // that this took, all together
}
