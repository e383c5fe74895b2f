package p2p

import (
	"errors"

	"narbor/p2p/netmon"
)

// Check reports what can be seen to be wrong with the peers and the patterns of interfaces before anything starts. It looks
// up no name and no interface.
func (c Config) Check() error {
	_, err := parseNamed(c.Peers, fromFlag)
	_, perr := netmon.NewPolicy(c.AllowInterfaces, c.DenyInterfaces)
	return errors.Join(err, perr)
}
