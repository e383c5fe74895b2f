package discovery

import (
	"narbor/p2p/transport"

	"go.uber.org/zap"
)

// A vsockSearch finds the hypervisor's host and guests, once there is vsock. Owned by one goroutine.
type vsockSearch struct {
	conns  *Conns
	added  *added
	wanted bool
	failed bool // it was there and of no use
}

// look begins to look for a host, and listens for guests, once there is vsock.
func (v *vsockSearch) look() {
	if !v.wanted || !transport.HasVsock() {
		return
	}
	v.added.keepHost()
	err := transport.ListenVsock(v.conns.host, v.conns.Gate)
	if err != nil && !v.failed {
		v.conns.Log.Info("guests cannot reach this machine by vsock", zap.Error(err))
	}
	v.wanted, v.failed = err != nil, err != nil
}
