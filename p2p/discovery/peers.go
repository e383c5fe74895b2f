package discovery

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/libp2p/go-libp2p/core/network"
	"go.uber.org/zap"

	"narbor/p2p/netmon"
	"narbor/p2p/transport"
	"narbor/store/statefile"
)

// maxPeersFile bounds the file of added peers, in bytes.
const maxPeersFile = maxAdded * (maxPeerText + 8)

// A NamedPeer is a peer that the user named: one machine, or with a DNS name as many as it has addresses.
type NamedPeer struct {
	Text string `json:"text"` // as it was given
	// From is "flag" for [Config.Peers], "kernel" for [Config.KernelPeers], and "added" for [Node.AddPeer].
	From      string   `json:"from"`
	Connected []string `json:"connected"` // the IDs of those that are connected
}

// Where a named peer was given.
const (
	fromFlag   = "flag"
	fromKernel = "kernel"
	fromAdded  = "added"
	fromVsock  = "vsock" // not given by the user: it is this machine's host
)

// added keeps the peers that were added while narbor ran, in a file.
type added struct {
	file string // "" is none

	mu    sync.Mutex // held while the file is written, so that the file matches texts
	texts []string
}

// loadAdded reads the peers that were added in earlier runs. Nothing of a file that cannot be read as a whole is used.
func loadAdded(file string) (*added, []*namedPeer, error) {
	a := &added{file: file}
	var texts []string
	if err := statefile.Read(file, maxPeersFile, &texts); err != nil {
		return a, nil, err
	}
	if len(texts) > maxAdded {
		return a, nil, fmt.Errorf("%s: %d peers, and %d are the most", file, len(texts), maxAdded)
	}
	named, err := parseNamed(texts, fromAdded)
	if err != nil {
		return a, nil, fmt.Errorf("%s: %w", file, err)
	}
	a.texts = texts
	return a, named, nil
}

func (a *added) add(l *LAN, text string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case l.names(text):
		return nil
	case len(text) > maxPeerText:
		return fmt.Errorf("peer %.100q… is longer than %d bytes", text, maxPeerText)
	case len(a.texts) >= maxAdded:
		return fmt.Errorf("%d peers were added already, and no more are kept; remove some", len(a.texts))
	}
	named, err := parseNamed([]string{text}, fromAdded)
	if err != nil {
		return err
	}
	texts := append(slices.Clone(a.texts), text)
	if err := statefile.Write(a.file, texts); err != nil {
		return fmt.Errorf("peer %q would be forgotten at the next start: %w", text, err)
	}
	a.texts = texts
	l.setNamed(append(l.namedNow(), named...))
	return nil
}

func (a *added) remove(l *LAN, text string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	i := slices.Index(a.texts, text)
	if i < 0 {
		return fmt.Errorf("no peer %.100q was added while narbor ran: one that is named by --peer or narbor.peers= must be removed there",
			text)
	}
	texts := slices.Delete(slices.Clone(a.texts), i, i+1)
	if err := statefile.Write(a.file, texts); err != nil {
		return fmt.Errorf("peer %q would come back at the next start: %w", text, err)
	}
	a.texts = texts
	l.setNamed(slices.DeleteFunc(l.namedNow(), func(n *namedPeer) bool { return n.text == text && n.from == fromAdded }))
	return nil
}

// namedNow returns the named peers, in a slice of the caller's.
func (l *LAN) namedNow() []*namedPeer {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.named)
}

func (l *LAN) names(text string) bool {
	return slices.ContainsFunc(l.namedNow(), func(n *namedPeer) bool { return n.text == text })
}

// setNamed replaces the named peers; keepAllNamed then starts and stops their goroutines.
func (l *LAN) setNamed(named []*namedPeer) {
	l.mu.Lock()
	l.named = named
	l.mu.Unlock()
	netmon.Hint(l.renamed)
}

// keepAllNamed stays connected to the named peers, as they are added and removed, until ctx ends.
func (l *LAN) keepAllNamed(ctx context.Context) error {
	kept := make(map[*namedPeer]func())
	end := func(n *namedPeer) {
		kept[n]()
		delete(kept, n)
	}
	for {
		now := l.namedNow()
		for n := range kept {
			if !slices.Contains(now, n) {
				end(n)
				l.forgetNamed(n)
			}
		}
		for _, n := range now {
			if kept[n] == nil {
				kept[n] = l.beginNamed(ctx, n)
			}
		}
		select {
		case <-l.renamed:
		case <-ctx.Done():
			for n := range kept {
				end(n)
			}
			return nil
		}
	}
}

// beginNamed keeps one named peer until ctx ends, or what it returns is called, which waits for the end.
func (l *LAN) beginNamed(ctx context.Context, n *namedPeer) func() {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.keepNamed(ctx, n)
	}()
	return func() {
		cancel()
		<-done
	}
}

// forgetNamed closes the connections to the peers found under a name that was removed.
func (l *LAN) forgetNamed(n *namedPeer) {
	l.Gate.SetNamed(n.text, nil)
	var conns []network.Conn
	l.mu.Lock()
	for id, by := range l.viaName {
		if by == n {
			delete(l.viaName, id)
			conns = append(conns, l.host.Network().ConnsToPeer(id)...)
		}
	}
	l.mu.Unlock()
	for _, c := range conns {
		l.discard(c)
	}
}

func (l *LAN) NamedPeers() []NamedPeer {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]NamedPeer, 0, len(l.named))
	for _, n := range l.named {
		if n.from == fromVsock {
			continue
		}
		p := NamedPeer{Text: n.text, From: n.from, Connected: []string{}}
		for id, by := range l.viaName {
			if by == n && l.connected(id) {
				p.Connected = append(p.Connected, id.String())
			}
		}
		slices.Sort(p.Connected)
		out = append(out, p)
	}
	return out
}

// allNamed reads the peers that the user named: by flag, on the kernel's command line, and in earlier runs. The
// kernel's command line may be older than this program, so a mistake in it does not prevent the start.
func allNamed(cfg Config, log *zap.Logger) ([]*namedPeer, *added, error) {
	named, err := parseNamed(cfg.Peers, fromFlag)
	if err != nil {
		return nil, nil, err
	}
	seen := slices.Clone(cfg.Peers)
	for _, text := range cfg.KernelPeers {
		more, err := parseNamed([]string{text}, fromKernel)
		if err != nil {
			log.Warn("left out of narbor.peers= on the kernel's command line", zap.Error(err))
		} else if !slices.Contains(seen, text) {
			named, seen = append(named, more...), append(seen, text)
		}
	}
	kept, more, err := loadAdded(cfg.PeersFile)
	if err != nil {
		log.Warn("peers that were added are forgotten; add them again", zap.Error(err))
	}
	for _, n := range more {
		if !slices.Contains(seen, n.text) {
			named = append(named, n)
		}
	}
	if cfg.Vsock && transport.HasVsock() {
		named = append(named, hostPeer())
	}
	return named, kept, nil
}

func (l *LAN) AddPeer(text string) error { return l.added.add(l, text) }

func (l *LAN) RemovePeer(text string) error { return l.added.remove(l, text) }
