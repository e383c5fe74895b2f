package p2p

import "narbor/p2p/discovery"

// Check reports what can be seen to be wrong with the peers and the patterns of interfaces before anything starts. It looks
// up no name and no interface.
func (c Config) Check() error {
	return discovery.Config{Peers: c.Peers, AllowInterfaces: c.AllowInterfaces, DenyInterfaces: c.DenyInterfaces}.Check()
}
