package control

import (
	"time"

	"narbor/p2p/ask"
	"narbor/p2p/proxy"
)

// Why is the output of `narbor why --json`: all that decides on the answer that Nix gets about a store path.
type Why struct {
	Schema   int       `json:"schema"`
	HashPart string    `json:"hashPart"`
	Path     string    `json:"path"`              // "" if it is unknown
	Local    *WhyLocal `json:"local"`             // null if it is not on this machine
	CID      string    `json:"cid,omitempty"`     // of the NAR; "" if its hash is unknown
	GitTree  string    `json:"gitTree,omitempty"` // object ID, if a repository of --git-dir has it
	SWHID    string    `json:"swhid,omitempty"`   // of that tree, in Software Heritage
	// StoreProblem is why this machine's Nix cannot be asked; "" if it can, or there is none.
	StoreProblem string       `json:"storeProblem,omitempty"`
	Neighbours   []ask.Answer `json:"neighbours"`
	Upstream     *WhyUpstream `json:"upstream"` // null if there is none
	Rebuild      *WhyRebuild  `json:"rebuild"`  // null if that is not known
	Status       int          `json:"status"`   // that Nix would get for the narinfo
	From         string       `json:"from"`     // what would be served: store, cache, git, neighbours, upstream or ""
	Reason       string       `json:"reason"`
}

// WhyLocal is what this machine has.
type WhyLocal struct {
	Where      string         `json:"where"` // the store, a cache directory or a git repository
	NarHash    string         `json:"narHash"`
	NarSize    int64          `json:"narSize"`
	References int            `json:"references"`
	CA         string         `json:"ca"`
	Signatures []WhySignature `json:"signatures"`
	Served     bool           `json:"served"` // Nix may have it from narbor, as may guests
	Shared     bool           `json:"shared"` // whether neighbours may have it now
	Reason     string         `json:"reason"`
}

// WhySignature is a signature with the result of checking it.
type WhySignature struct {
	Key     string `json:"key"`
	Verdict string `json:"verdict"` // verified, wrong or unknown key
	// OfferedBy is the neighbour that has offered the signature, and OfferedAt when; "" and nil if it is the source's
	// own.
	OfferedBy string     `json:"offeredBy,omitempty"`
	OfferedAt *time.Time `json:"offeredAt,omitempty"`
}

// WhyRebuild tells whether this machine makes the path's NAR from another version of the path in its store.
type WhyRebuild struct {
	From    string `json:"from"`    // the other version; "" if none fits
	Done    bool   `json:"done"`    // it was rebuilt; false: it would be, if Problem is ""
	Problem string `json:"problem"` // why it was not, or would not be; "" is none
}

// WhyUpstream has the answer of the upstreams, and the peer that is assigned to ask them.
type WhyUpstream struct {
	Has        bool             `json:"has"`
	SignedBy   string           `json:"signedBy"` // the trusted key; "" if it is content-addressed, or not asked
	NarHash    string           `json:"narHash"`
	NarSize    int64            `json:"narSize"`
	Problem    string           `json:"problem"` // why they cannot tell, or are not believed; "" is none
	Asked      bool             `json:"asked"`   // false if this machine or a neighbour has it: no peer asks them then
	Millis     float64          `json:"millis"`
	Assignment proxy.Assignment `json:"assignment"`

	Rate       int64 `json:"rate,omitempty"` // bytes of a NAR a second that a download from one has had of late; 0 is unknown
	Unreadable bool  `json:"-"`              // Problem is an encoding that narbor cannot read
}
