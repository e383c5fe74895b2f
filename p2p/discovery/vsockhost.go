package discovery

import (
	"slices"

	"go.uber.org/zap"

	"narbor/p2p/transport"
)

// hostPeer is the machine that this one is a guest of. Its text is not one that the user may give.
func hostPeer() *namedPeer {
	return &namedPeer{text: "host by vsock", from: fromVsock, cid: transport.VsockHost, port: defaultPort,
		hurry: make(chan struct{}, 1), lost: make(chan struct{}, 1)}
}

// lookForVsock begins to look for a host, and listens for guests, once there is vsock. It is called by follow alone.
func (l *LAN) lookForVsock() {
	if !l.vsock || !transport.HasVsock() {
		return
	}
	l.added.keepHost(l)
	err := transport.ListenVsock(l.host, l.Gate)
	if err != nil && !l.vsockFailed {
		l.Log.Info("guests cannot reach this machine by vsock", zap.Error(err))
	}
	l.vsock, l.vsockFailed = err != nil, err != nil
}

// keepHost looks for this machine's host from now on.
func (a *added) keepHost(l *LAN) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if named := l.namedNow(); !slices.ContainsFunc(named, func(n *namedPeer) bool { return n.from == fromVsock }) {
		l.setNamed(append(named, hostPeer()))
	}
}
