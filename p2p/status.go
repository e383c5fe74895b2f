package p2p

import (
	"cmp"
	"slices"
	"time"

	"narbor/p2p/discovery"
	"narbor/p2p/greet"
	"narbor/p2p/netmon"
	"narbor/p2p/peers"
	"narbor/p2p/proxy"
	"narbor/p2p/serve"
	"narbor/p2p/transport"
	"narbor/store"
	"narbor/store/rebase"
	"narbor/trust"
)

// KindCount has the counts of a kind of path.
type KindCount = serve.KindCount

// Status is what a node knows of itself and its neighbours at a moment. Times are in seconds, amounts in bytes or
// blocks since the start of the program.
type Status struct {
	ID         string                   `json:"peerId"`
	Settled    bool                     `json:"settled"`
	Addrs      []string                 `json:"addrs"`
	Interfaces []netmon.InterfaceStatus `json:"interfaces"`
	Neighbours []NeighbourStatus        `json:"neighbours"`
	Banned     []peers.Denied           `json:"banned"`
	MDNS       bool                     `json:"mdns"`  // whether this machine announces itself and looks for others
	Vsock      bool                     `json:"vsock"` // whether host and guests may be reached by vsock
	// VsockForbidden is whether the kernel has vsock and the unit does not allow it.
	VsockForbidden bool             `json:"vsockForbidden"`
	UploadRate     int64            `json:"uploadRate"` // bytes of blocks that are sent in a second at most; 0 is no limit
	Group          bool             `json:"group"`      // whether only peers that know its secret are asked and answered
	OtherGroup     []greet.Outsider `json:"otherGroup"`
	Blocked        []string         `json:"blocked"` // IDs of the peers that the user has blocked
	Upstreams      []UpstreamStatus `json:"upstreams"`
	// Received is what came since the start, in bytes of NARs; Supplied is of these what this node has downloaded.
	Received map[store.Origin]int64 `json:"received"`
	Supplied int64                  `json:"supplied"`
	// UpstreamRate is how many bytes of a NAR a second an upstream has sent of late, in each download; 0 is unknown.
	UpstreamRate int64 `json:"upstreamRate,omitempty"`
	proxy.Status
	// Shared counts by the kind of path what neighbours have asked for and were sent, since the start.
	Shared map[trust.Kind]KindCount `json:"shared"`
	// Rejected is how often what a peer sent was not believed, by reason; Bans how many were banned, by the last lie of
	// each; Networks how often the interfaces that are used have changed.
	Rejected map[string]int64 `json:"rejected"`
	Bans     map[string]int64 `json:"bans"`
	Networks int64            `json:"networks"`
	// Discovery counts the multicast DNS packets since the start, by kind (question, announcement, unknown) and by
	// result (sent, used, ignored, malformed, dropped).
	Discovery map[string]map[string]int64 `json:"discovery"`
	// Rebuilds counts the paths that were wanted, and those of which this machine has no other version to rebuild them
	// from.
	Rebuilds rebase.Recent `json:"rebuilds"`
	// OtherKeys are trusted keys with the names of which neighbours have signatures that do not verify with the key
	// here.
	OtherKeys []peers.KeyMismatch `json:"otherKeys"`
}

// UpstreamStatus is a cache on the internet that is asked for what no neighbour has.
type UpstreamStatus struct {
	URL          string `json:"url"` // without a user and a password
	Down         bool   `json:"down"`
	WireReceived int64  `json:"wireReceived"` // bytes of archives, compressed as they were
}

// NeighbourStatus is what passed between a neighbour and this node, over all its connections.
type NeighbourStatus struct {
	ID               string `json:"id"`
	Name             string `json:"name,omitempty"` // not verified: any peer may take any name
	Addr             string `json:"addr"`           // a multiaddr, or vsock:CID:PORT
	Via              string `json:"via"`            // how it was found
	ConnectedSeconds int64  `json:"connectedSeconds"`
	Passing          bool   `json:"passing,omitempty"` // a short visit, in which one side asks the other for a few paths
	Claims           int64  `json:"claims"`            // believed ones that it made
	BlocksReceived   int64  `json:"blocksReceived"`
	BytesReceived    int64  `json:"bytesReceived"`
	WireReceived     int64  `json:"wireReceived"` // bytes that these took on the wire, compressed as they were
	BytesWasted      int64  `json:"bytesWasted"`  // of those received, what another had delivered first
	BlocksSent       int64  `json:"blocksSent"`
	BytesSent        int64  `json:"bytesSent"`
	BlocksRelayed    int64  `json:"blocksRelayed"` // of those sent, what was still being received here
	WireSent         int64  `json:"wireSent"`
	Strikes          int64  `json:"strikes"`
	WrongNARs        int64  `json:"wrongNars"` // paths of which it has sent a wrong NAR in the last hour
	// AsideUntil is until when it is not relied on alone, and Aside why; nil and "" if it is.
	AsideUntil *time.Time `json:"asideUntil,omitempty"`
	Aside      string     `json:"aside,omitempty"`
}

// Status returns the node's state, neighbours sorted by ID.
func (n *Node) Status() Status {
	h := n.lan.Host()
	s := Status{ID: h.ID().String(), Addrs: []string{}, Interfaces: n.lan.Interfaces(), Neighbours: []NeighbourStatus{},
		Banned:  []peers.Denied{},
		Blocked: []string{},
		MDNS:    n.cfg.Discovery.MDNS, UploadRate: n.cfg.Sharing.UploadRate,
		Group:      n.greeter.Group != nil,
		OtherGroup: n.greeter.Outsiders(),
		Upstreams:  []UpstreamStatus{}, Supplied: n.received[store.FromInternet].Load(), Status: n.proxy.Status(),
		Received: map[store.Origin]int64{}, UpstreamRate: n.downloads.Sessions.Throughput.Rate()}
	s.VsockForbidden = n.cfg.Discovery.Vsock && transport.ForbidsVsock()
	s.Vsock = n.cfg.Discovery.Vsock && transport.HasVsock() && !s.VsockForbidden
	for _, o := range []store.Origin{store.FromNeighbours, store.FromOthers, store.FromInternet, store.FromRebuild} {
		s.Received[o] = n.received[o].Load()
	}
	for _, u := range n.cfg.Upstreams.Caches {
		s.Upstreams = append(s.Upstreams, UpstreamStatus{u.String(), u.Down(), u.Received()})
	}
	s.Rejected, s.Bans = n.ledger.Totals()
	s.OtherKeys = n.ledger.OtherKeys(n.cfg.Trusted)
	s.Shared = n.server.Counts()
	s.Networks = n.lan.Changes()
	if n.cfg.Rebuilds != nil {
		s.Rebuilds = n.cfg.Rebuilds.Recent()
	}
	s.Discovery = n.lan.Traffic.Counts()
	select {
	case <-n.greeter.Settled():
		s.Settled = true
	default:
	}
	for _, a := range h.Network().ListenAddresses() {
		s.Addrs = append(s.Addrs, n.lan.Gate.Text(a))
	}
	for _, nb := range n.neighbours.All() {
		t, since := nb.Tally, time.Since(nb.Since)
		is := NeighbourStatus{
			ID: nb.ID.String(), Name: t.Name(), Addr: n.lan.AddrOf(nb.ID), Via: n.lan.Via(nb.ID), ConnectedSeconds: int64(since.Seconds()),
			Passing: n.lan.Dialer.Standing(nb.ID).NonNeighbour && since < discovery.VisitTime, // if longer, the other side keeps it
			Claims:  t.Claims.Load(), BlocksReceived: t.BlocksReceived.Load(), BytesReceived: t.BytesReceived.Load(),
			WireReceived: t.WireReceived.Load(), BytesWasted: t.Wasted.Load(),
			BlocksSent: t.BlocksSent.Load(), BlocksRelayed: t.BlocksRelayed.Load(), BytesSent: t.BytesSent.Load(),
			WireSent: t.WireSent.Load(), Strikes: t.Strikes.Load(), WrongNARs: t.CountWrong(time.Now())}
		if until, why := t.Aside(time.Now()); why != "" {
			is.AsideUntil, is.Aside = &until, why
		}
		s.Neighbours = append(s.Neighbours, is)
	}
	slices.SortFunc(s.Neighbours, func(a, b NeighbourStatus) int { return cmp.Compare(a.ID, b.ID) })
	s.Banned = n.ledger.Bans()
	for _, id := range n.ledger.Blocked() {
		s.Blocked = append(s.Blocked, id.String())
	}
	return s
}
