package discovery

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/sec"
	"go.uber.org/zap"

	"narbor/p2p/netmon"
)

// A NamedPeer is a peer that the user named, or the network's name server: one machine, or with a DNS name as many as
// it has addresses.
type NamedPeer struct {
	Text string `json:"text"` // as it was given
	// From is "flag" for [Config.Peers], "kernel" for [Config.KernelPeers], "added" for [LAN.AddPeer], and "dns-sd" for
	// [Config.DNSSD].
	From      string   `json:"from"`
	Connected []string `json:"connected"` // the IDs of those that are connected
}

// namedPeers stays connected to the named peers.
type namedPeers struct {
	conns   *Conns
	tried   func()        // is called once for each peer of the first round that has been tried
	changed chan struct{} // all may have changed

	mu   sync.Mutex // guards what follows
	all  []*namedPeer
	byID map[peer.ID]*namedPeer // once their ID is known
}

func newNamedPeers(conns *Conns, all []*namedPeer, tried func()) *namedPeers {
	return &namedPeers{conns: conns, tried: tried, changed: make(chan struct{}, 1), all: all, byID: make(map[peer.ID]*namedPeer)}
}

// now returns the named peers, in a slice of the caller's.
func (ps *namedPeers) now() []*namedPeer {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	return slices.Clone(ps.all)
}

// of returns the named peer that a peer was found at, or nil.
func (ps *namedPeers) of(id peer.ID) *namedPeer {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	return ps.byID[id]
}

// set replaces the named peers; run then starts and stops their goroutines.
func (ps *namedPeers) set(named []*namedPeer) {
	ps.mu.Lock()
	ps.all = named
	ps.mu.Unlock()
	netmon.Hint(ps.changed)
}

// run stays connected to the named peers, as they are added and removed, until ctx ends.
func (ps *namedPeers) run(ctx context.Context) error {
	kept := make(map[*namedPeer]func())
	end := func(n *namedPeer) {
		kept[n]()
		delete(kept, n)
	}
	for {
		now := ps.now()
		for n := range kept {
			if !slices.Contains(now, n) {
				end(n)
				ps.forget(n)
			}
		}
		for _, n := range now {
			if kept[n] == nil {
				kept[n] = ps.begin(ctx, n)
			}
		}
		select {
		case <-ps.changed:
		case <-ctx.Done():
			for n := range kept {
				end(n)
			}
			return nil
		}
	}
}

// begin keeps one named peer until ctx ends, or the returned function is called, which waits for the end.
func (ps *namedPeers) begin(ctx context.Context, n *namedPeer) func() {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		ps.keep(ctx, n)
	}()
	return func() {
		cancel()
		<-done
	}
}

// forget closes the connections to the peers found under a name that was removed.
func (ps *namedPeers) forget(n *namedPeer) {
	ps.conns.Gate.SetNamed(n.text, nil)
	var conns []network.Conn
	ps.mu.Lock()
	for id, by := range ps.byID {
		if by == n {
			delete(ps.byID, id)
			conns = append(conns, ps.conns.host.Network().ConnsToPeer(id)...)
		}
	}
	ps.mu.Unlock()
	for _, c := range conns {
		ps.conns.discard(c)
	}
}

// report returns the named peers, in the order in which they were given.
func (ps *namedPeers) report() []NamedPeer {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	out := make([]NamedPeer, 0, len(ps.all))
	for _, n := range ps.all {
		if n.from == fromVsock {
			continue
		}
		p := NamedPeer{Text: n.text, From: n.from, Connected: []string{}}
		for id, by := range ps.byID {
			if by == n && ps.conns.connected(id) {
				p.Connected = append(p.Connected, id.String())
			}
		}
		slices.Sort(p.Connected)
		out = append(out, p)
	}
	return out
}

// keep stays connected to a named peer until ctx ends.
func (ps *namedPeers) keep(ctx context.Context, n *namedPeer) {
	tried := func() {}
	if n.first {
		tried = sync.OnceFunc(ps.tried)
	}
	defer tried()
	if n.from == fromVsock { // a hypervisor may only time out if there is no narbor at the host
		defer time.AfterFunc(placeFirst, tried).Stop()
	}
	learned := make(map[netip.Addr]peer.ID)
	failures, since := 0, time.Now()
	for {
		wait := lookAgain
		if err := ps.connect(ctx, n, learned); err != nil {
			ps.logFailure(ctx, n, failures, err)
			wait = n.rest(failures, err)
			failures++
		} else {
			since = time.Now()
		}
		tried()
		select {
		case <-ctx.Done():
			return
		case <-n.hurry:
			failures = 0
		case <-time.After(wait):
		case <-n.lost:
			failures++
			if time.Since(since) > steady {
				failures = 0
			}
			select {
			case <-ctx.Done():
				return
			case <-n.hurry:
			case <-time.After(backoff(failures, redialMin)):
			}
		}
	}
}

// logFailure logs the first of a row of failures.
func (ps *namedPeers) logFailure(ctx context.Context, n *namedPeer, failures int, err error) {
	if ctx.Err() != nil {
		return
	}
	log := ps.conns.Log.Debug
	if failures == 0 && n.from != fromVsock && n.from != fromDNS {
		log = ps.conns.Log.Warn
	}
	log("named peer not reached", zap.String("peer", n.text), zap.Error(err))
}

// connect connects to the peers at the addresses of a named peer. It returns an error if there is none.
func (ps *namedPeers) connect(ctx context.Context, n *namedPeer, learned map[netip.Addr]peer.ID) error {
	addrs, err := n.resolve(ctx)
	if err != nil {
		return err
	}
	if n.cid != 0 {
		addrs = []netip.Addr{ps.conns.Gate.VsockAddr(n.cid)}
	}
	ps.conns.Gate.SetNamed(n.text, addrs)
	if n.id != "" {
		return ps.connectAs(ctx, n, n.id, addrs...)
	}
	ids, errs := make([]peer.ID, len(addrs)), make([]error, len(addrs))
	var wg sync.WaitGroup
	for i, a := range addrs {
		id := learned[a]
		wg.Go(func() { ids[i], errs[i] = ps.connectAny(ctx, n, id, a) })
	}
	wg.Wait()
	clear(learned)
	for i, a := range addrs {
		if ids[i] != "" {
			learned[a] = ids[i]
		}
	}
	if slices.Contains(errs, nil) {
		return nil
	}
	return errors.Join(errs...)
}

// connectAny connects to the peer at an address: the last one there, if it is known and still there, or another.
func (ps *namedPeers) connectAny(ctx context.Context, n *namedPeer, last peer.ID, a netip.Addr) (peer.ID, error) {
	if last != "" {
		err := ps.connectAs(ctx, n, last, a)
		if !errors.As(err, new(sec.ErrPeerIDMismatch)) {
			return last, err
		}
	}
	id, err := ps.conns.peerAt(ctx, n.multiaddrs([]netip.Addr{a}))
	if err != nil {
		return "", err
	}
	return id, ps.connectAs(ctx, n, id, a)
}

func (ps *namedPeers) connectAs(ctx context.Context, n *namedPeer, id peer.ID, addrs ...netip.Addr) error {
	if id == ps.conns.host.ID() {
		return errSelf
	}
	ps.remember(id, n)
	return ps.conns.connect(ctx, peer.AddrInfo{ID: id, Addrs: n.multiaddrs(addrs)})
}

// remember records the ID of a named peer. Absent peers are dropped beyond a limit, so that a machine that answers with
// a new ID each time cannot fill the memory.
func (ps *namedPeers) remember(id peer.ID, n *namedPeer) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if !slices.Contains(ps.all, n) {
		return
	}
	if len(ps.byID) >= len(ps.all)*maxNamedAddrs {
		maps.DeleteFunc(ps.byID, func(p peer.ID, _ *namedPeer) bool { return !ps.conns.connected(p) })
	}
	ps.byID[id] = n
}
