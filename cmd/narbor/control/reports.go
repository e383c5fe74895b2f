package control

import (
	"regexp"

	"narbor/p2p"
	"narbor/p2p/discovery"
	"narbor/p2p/greet"
	"narbor/p2p/meet"
	"narbor/p2p/peers"
	"narbor/p2p/ping"
)

// PeerList is what `narbor peers --json` prints.
type PeerList struct {
	Schema     int                   `json:"schema"`
	Neighbours []p2p.NeighbourStatus `json:"neighbours"`
	Named      []discovery.NamedPeer `json:"named"` // by the user; connected or not
	Banned     []peers.Denied        `json:"banned"`
	Blocked    []string              `json:"blocked"`
	OtherGroup []greet.Outsider      `json:"otherGroup"`
}

// PingReport is what `narbor ping --json` prints.
type PingReport struct {
	Schema int `json:"schema"`
	ping.Ping
}

// DialBackReport is the control socket's answer about dial-backs.
type DialBackReport struct {
	Schema    int             `json:"schema"`
	DialBacks []meet.DialBack `json:"dialBacks"`
}

// ReadSettings is what the running narbor has read of Nix's configuration, for `narbor doctor` to compare with what Nix
// has.
type ReadSettings struct {
	UID          int      `json:"uid"`
	Keys         []string `json:"keys"` // trusted-public-keys
	Substituters []string `json:"substituters"`
	Origin       string   `json:"origin"`
	Unread       []string `json:"unread"` // files that could not be read, and why
}

// KeyList is what `narbor keys --json` prints.
type KeyList struct {
	Schema int   `json:"schema"`
	Keys   []Key `json:"keys"`
}

// Key is a public key in force.
type Key struct {
	Name   string `json:"name"`
	Public string `json:"public"` // name:base64
	From   string `json:"from"`   // where it was learned
	Class  string `json:"class"`  // public or private
	Why    string `json:"why"`    // it is that
	Shares bool   `json:"shares"` // what it has signed, and was not built here, is given to neighbours
	Circle bool   `json:"circle"` // also what was built here, to members of the group
}

// ConfigShow is what `narbor config show --json` prints.
type ConfigShow struct {
	Schema   int       `json:"schema"`
	Settings []Setting `json:"settings"`
}

// Setting is a flag of `narbor run`, what it is set to, and by what.
type Setting struct {
	Name   string   `json:"name"`
	Values []string `json:"values"` // several, or none, for a flag that can be repeated
	Origin string   `json:"origin"` // flag, environment, file or default
	From   string   `json:"from"`   // the variable or the file
}

// Schema is the version of what --json prints, of every command. It changes with the meaning of a field, not with a
// new one.
const Schema = 1

// loginPattern finds a user and a password in a URL, up to the last @, for a password may have one in it.
var loginPattern = regexp.MustCompile(`//[^/\s"]+@`)

// HideLogin puts a mark in place of a user and a password in the URLs of a text.
func HideLogin(text, mark string) string {
	return loginPattern.ReplaceAllString(text, "//"+mark+"@")
}
