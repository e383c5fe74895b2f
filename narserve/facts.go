package narserve

import "time"

// Severities of [Health].
const (
	SeverityError   = "error"   // nothing comes from neighbours, or nothing goes to them, until it is mended
	SeverityWarning = "warning" // less than could be
	SeverityInfo    = "info"    // nothing to mend
	SeverityOK      = "ok"      // it was looked at, and is well
	SeveritySkipped = "skipped" // it could not be looked at, and Text says why
)

// Health is a problem and its remedy. It is also the finding of one check of `narbor doctor`. A problem that both report
// has the same code: the name of the check.
type Health struct {
	Code     string `json:"code"` // a few words with dashes, always the same for the same thing
	Severity string `json:"severity"`
	Title    string `json:"title,omitempty"`
	Text     string `json:"text"`
	Fix      string `json:"fix,omitempty"`     // the remedy, for people
	Command  string `json:"command,omitempty"` // to copy
	Safe     bool   `json:"safe"`              // the command takes nothing away from any user: a program may run it as root
	AsUser   bool   `json:"asUser,omitempty"`  // the command changes what belongs to the user that asked, and is not for root
	// Means are the ways in which it was found out, where there are several; a word each.
	Means []string `json:"means,omitempty"`
}

// Degraded reports whether the problem limits narbor's service.
func (h Health) Degraded() bool { return h.Severity == SeverityError || h.Severity == SeverityWarning }

// Facts is what the page, the API and the metrics show beside the accounts: what other parts of narbor know at a moment.
type Facts struct {
	Status    any // the answer to /api/v1/status
	Version   string
	Started   time.Time
	ID        string
	Listen    []string // addresses at which Nix asks
	NixConf   string   // the line for nix.conf
	NixAsks   bool     // that line, or one like it, is in force
	Keys      []string // names of the keys that are trusted
	ShareKeys []string // names of the keys that sign shared paths
	// PrivateKeys are names of keys: what only they have signed is for members of the group.
	PrivateKeys []string
	Sharing     bool     // neighbours may have something
	Paused      bool     // the user lets neighbours have nothing
	ShareFrom   []string // the store and cache directories
	UploadRate  int64    // bytes a second; 0 is no limit
	Group       bool     // only members of a group are asked and answered
	Neighbours  []Neighbour
	Banned      []Banned
	Interfaces  []Interface
	Spool       SpoolUse
	Rejected    map[string]int64            // what neighbours sent and was not believed, by reason, since the start
	Bans        map[string]int64            // since the start, by reason
	Networks    int64                       // changes of networks since the start
	Discovery   map[string]map[string]int64 // what went by multicast DNS since the start, by kind and result
	Health      []Health
	Upstreams   []UpstreamUse
	ForOthers   int64  // bytes of NARs that neighbours have asked to be downloaded, since the start
	Alone       string // why nothing is downloaded for them; "" if it is
	Helpers     int    // neighbours that download for this machine
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
