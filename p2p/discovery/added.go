package discovery

import (
	"fmt"
	"slices"
	"sync"

	"go.uber.org/zap"

	"narbor/p2p/transport"
	"narbor/store/statefile"
)

// maxPeersFile bounds the file of added peers, in bytes.
const maxPeersFile = maxAdded * (maxPeerText + 8)

// added keeps the peers that are added while narbor runs, in a file.
type added struct {
	named *namedPeers
	file  string // "" is none

	mu    sync.Mutex // held while the file is written, so that the file matches texts
	texts []string
}

// loadAdded reads the peers that were added in earlier runs. Nothing of a file that cannot be read as a whole is used.
func loadAdded(file string) (texts []string, named []*namedPeer, err error) {
	if err := statefile.Read(file, maxPeersFile, &texts); err != nil {
		return nil, nil, err
	}
	if len(texts) > maxAdded {
		return nil, nil, fmt.Errorf("%s: %d peers, and %d are the most", file, len(texts), maxAdded)
	}
	named, err = parseNamed(texts, fromAdded)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", file, err)
	}
	return texts, named, nil
}

// allNamed reads the peers that the user named: by flag, on the kernel's command line, and in earlier runs. The
// kernel's command line may be older than this program, so a mistake in it does not prevent the start. It returns the
// texts of the added ones as well.
func allNamed(cfg Config, log *zap.Logger) (named []*namedPeer, texts []string, err error) {
	named, err = parseNamed(cfg.Peers, fromFlag)
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
	texts, more, err := loadAdded(cfg.PeersFile)
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
	return named, texts, nil
}

func (a *added) add(text string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	found := func(n *namedPeer) bool { return n.text == text && n.from == fromDNS }
	kept := slices.DeleteFunc(a.named.now(), found) // one that DNS names may be gone tomorrow
	switch {
	case slices.ContainsFunc(kept, func(n *namedPeer) bool { return n.text == text }):
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
	a.named.set(append(kept, named...))
	return nil
}

func (a *added) remove(text string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	i := slices.Index(a.texts, text)
	if i < 0 {
		return fmt.Errorf("no peer %.100q was added while narbor ran: one of --peer, narbor.peers= or DNS must be removed there",
			text)
	}
	texts := slices.Delete(slices.Clone(a.texts), i, i+1)
	if err := statefile.Write(a.file, texts); err != nil {
		return fmt.Errorf("peer %q would come back at the next start: %w", text, err)
	}
	a.texts = texts
	a.named.set(slices.DeleteFunc(a.named.now(), func(n *namedPeer) bool { return n.text == text && n.from == fromAdded }))
	return nil
}

// keepHost looks for this machine's host from now on.
func (a *added) keepHost() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if named := a.named.now(); !slices.ContainsFunc(named, func(n *namedPeer) bool { return n.from == fromVsock }) {
		a.named.set(append(named, hostPeer()))
	}
}

// setFound replaces the peers that SRV records name, or adds to them if some name server has not answered. A peer that
// was named already, there or by the user, stays as it is.
func (a *added) setFound(texts []string, all bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	found := 0
	named := slices.DeleteFunc(a.named.now(), func(n *namedPeer) bool {
		stale := n.from == fromDNS && all && !slices.Contains(texts, n.text)
		if n.from == fromDNS && !stale {
			found++
		}
		return stale
	})
	for _, text := range texts {
		if found < maxFound && !slices.ContainsFunc(named, func(n *namedPeer) bool { return n.text == text }) {
			if n, err := parseFound(text); err == nil { // the search has left out others
				named, found = append(named, n), found+1
			}
		}
	}
	a.named.set(named)
}
