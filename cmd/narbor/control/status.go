package control

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"narbor/narserve"
	"narbor/narserve/stats"
	"narbor/p2p"
	"narbor/store/damage"
)

// Status is what `narbor status --json` prints. Schema changes with the meaning of a field, not with a new one.
type Status struct {
	Schema        int    `json:"schema"`
	Version       string `json:"version"`
	UptimeSeconds int64  `json:"uptimeSeconds"`
	Goroutines    int    `json:"goroutines"` // a number that grows without end is a leak
	p2p.Status
	HTTP []string `json:"http"` // where Nix asks
	StoreStatus
	KeyStatus
	SharingStatus
	TransferStatus
	Nix   narserve.Stats `json:"nix"`
	Spool SpoolStatus    `json:"spool"`
	// Health has the problems of this machine, the worst first.
	Health []Health `json:"health"`
}

// StoreStatus is what this machine has for neighbours.
type StoreStatus struct {
	Store string `json:"store"` // "" if there is no Nix
	// StoreProblem is the reason why this machine's Nix store cannot be queried; "" if it can, or there is none.
	StoreProblem string `json:"storeProblem,omitempty"`
	// Damaged are paths of this machine that are known to be damaged.
	Damaged   []damage.Finding `json:"damaged"`
	CacheDirs []string         `json:"cacheDirs"`
}

// SharesFrom returns the store and the cache directories.
func (st StoreStatus) SharesFrom() []string {
	if st.Store == "" {
		return st.CacheDirs
	}
	return append([]string{st.Store}, st.CacheDirs...)
}

// KeyStatus has the names of the keys that Nix trusts here.
type KeyStatus struct {
	Keys      []string `json:"keys"`
	ShareKeys []string `json:"shareKeys"` // what one of these has signed is shared with neighbours
	// PublicKeys and PrivateKeys are Keys by class. What only private ones have signed is for members of the group.
	PublicKeys  []string `json:"publicKeys"`
	PrivateKeys []string `json:"privateKeys"`
	// CircleKeys are the Keys that let members of the group have what was built here and one of them has signed.
	CircleKeys []string `json:"circleKeys"`
	// NixConfProblems says which of Nix's configuration could not be read, and why.
	NixConfProblems []string `json:"nixConfProblems"`
}

// SharingStatus says whether neighbours may have anything.
type SharingStatus struct {
	Sharing string `json:"sharing"` // signed or none
	// PausedUntil is when sharing goes on by itself; nil is never.
	PausedUntil *time.Time `json:"pausedUntil,omitempty"`
	// ShareSources says whether neighbours may have sources that Nix has fetched by their hash, without a signature.
	ShareSources bool `json:"shareSources"`
}

// TransferStatus has the amounts that Nix got and neighbours were sent. LastUpdate has those of Nix alone; Month, Rates and Now have
// both, and Rates and Now also the NARs that are fetched for neighbours.
type TransferStatus struct {
	LastUpdate *stats.Update    `json:"lastUpdate,omitempty"`
	Month      stats.Amounts    `json:"month"` // the last 30 days
	Rates      stats.Rates      `json:"rates"`
	Now        []stats.Transfer `json:"now"`
	// Away are peers with which something passed in 30 days, and that are not connected.
	Away []stats.Share `json:"away"`
}

// SpoolStatus is how full the spool is.
type SpoolStatus struct {
	Bytes     int64 `json:"bytes"`
	Entries   int   `json:"entries"`
	MaxBytes  int64 `json:"maxBytes"`
	FreeBytes int64 `json:"freeBytes"` // on its disk; -1 if that is not known
	MinFree   int64 `json:"minFree"`   // of these, the part that is left free
	// Verified is how many NARs were here as a whole and so were checked, VerifySeconds how long this took, all
	// together.
	Verified      int64   `json:"verified"`
	VerifySeconds float64 `json:"verifySeconds"`
}

// Faults are those things of its health from which the service suffers.
func (st Status) Faults() []Health {
	return slices.DeleteFunc(slices.Clone(st.Health), func(h Health) bool { return !h.Degraded() })
}

// Used returns the names of the network interfaces that are used.
func (st Status) Used() (names []string) {
	for _, i := range st.Interfaces {
		if i.Used {
			names = append(names, i.Name)
		}
	}
	return names
}

// NetworkLines returns a line with the interfaces in use, and one with the others and the reasons. Loopback is left out.
func (st Status) NetworkLines() (used, ignored string) {
	const most = 3 // of a sort: a host of containers has hundreds
	var names, reasons []string
	byReason := make(map[string][]string)
	for _, i := range st.Interfaces {
		switch {
		case i.Used:
			names = append(names, i.Name)
		case i.Reason != "loopback":
			if byReason[i.Reason] == nil {
				reasons = append(reasons, i.Reason)
			}
			byReason[i.Reason] = append(byReason[i.Reason], i.Name)
		}
	}
	for i, reason := range reasons {
		same := byReason[reason]
		if more := len(same) - most; more > 0 {
			same = append(same[:most:most], fmt.Sprintf("%d more", more))
		}
		reasons[i] = strings.Join(same, ", ") + ": " + reason
	}
	if len(names) == 0 {
		names = []string{"none"}
	}
	return strings.Join(names, ", "), strings.Join(reasons, "; ")
}

// PrivateGoes returns the destination of paths that only private keys have signed.
func (st Status) PrivateGoes() string {
	if st.Group {
		return "to members of the group alone"
	}
	return "to no neighbour; see `narbor keys`"
}
