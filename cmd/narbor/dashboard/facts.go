package dashboard

import (
	"narbor/cmd/narbor/control"
	"narbor/p2p"
)

// Facts is what the page, the API and the metrics show beside the accounts: what other parts of narbor know at a moment.
type Facts struct {
	control.Status        // the answer to /api/v1/status
	NixConf        string // the line for nix.conf
	NixAsks        bool   // that line, or one like it, is in force
	Kinds          []ShareKind
}

// ShareKind is a kind of path, with which machines it is shared, and how much of it since the start.
type ShareKind struct {
	Kind string `json:"kind"`
	With string `json:"with"`
	p2p.KindCount
}
