package p2p

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	ma "github.com/multiformats/go-multiaddr"
)

// maxMemoryFile bounds the file of remembered peers, in bytes.
const maxMemoryFile = maxNetworks * maxRemembered * (2*maxAddrText + maxNetworkKey + 100)

// A memo says that a peer was in a network.
type memo struct {
	Network string    `json:"network"` // as [places] calls it
	Peer    string    `json:"peer"`    // multiaddr with its ID
	Seen    time.Time `json:"seen"`    // give or take memoAge
}

// memoAge is how old the time of a memo may be before it is written anew.
const memoAge = 24 * time.Hour

// A memory is who was connected in which network. It is no safe place for a network's name, so it is nobody's to read
// but narbor's.
type memory struct {
	file string // "" is none
	all  []memo
}

// loadMemory reads what was written in earlier runs. Of a file that cannot be read as a whole nothing is believed, and
// the memory is empty; it is usable even then.
func loadMemory(file string, now time.Time) (*memory, error) {
	m := &memory{file: file}
	var all []memo
	if err := readState(file, maxMemoryFile, &all); err != nil {
		return m, err
	}
	for i, x := range all {
		if _, _, ok := x.addr(); !ok || x.Network == "" || len(x.Network) > maxNetworkKey {
			return m, fmt.Errorf("%s: entry %d is no peer in a network", file, i)
		}
		if x.Seen.After(now) { // the clock was wrong, or is
			all[i].Seen = now
		}
	}
	m.all = all
	m.bound(now)
	return m, nil
}

func (x memo) addr() (id string, m ma.Multiaddr, ok bool) {
	if len(x.Peer) > maxAddrText {
		return "", nil, false
	}
	m, err := ma.NewMultiaddr(x.Peer)
	if err != nil {
		return "", nil, false
	}
	p, _, ok := splitPeerAddr(m)
	return string(p), m, ok
}

// note takes note that a peer is in a network, and reports whether that is worth being written.
func (m *memory) note(network string, peer ma.Multiaddr, now time.Time) bool {
	text := peer.String()
	i := slices.IndexFunc(m.all, func(x memo) bool { return x.Network == network && x.Peer == text })
	switch {
	case i < 0:
		m.all = append(m.all, memo{network, text, now})
	case now.Sub(m.all[i].Seen) < memoAge:
		return false
	default:
		m.all[i].Seen = now
	}
	m.bound(now)
	return true
}

// bound forgets what is too old, or too much; the newest stays.
func (m *memory) bound(now time.Time) {
	slices.SortStableFunc(m.all, func(a, b memo) int { return cmp.Compare(b.Seen.Unix(), a.Seen.Unix()) })
	networks, addrs := map[string]int{}, map[string]int{}
	m.all = slices.DeleteFunc(m.all, func(x memo) bool {
		id, _, _ := x.addr()
		if now.Sub(x.Seen) > memoryLimit || networks[x.Network] >= maxRemembered || addrs[x.Network+id] >= maxRememberedAddrs {
			return true
		}
		if networks[x.Network] == 0 && len(networks) >= maxNetworks {
			return true
		}
		networks[x.Network]++
		addrs[x.Network+id]++
		return false
	})
}

// in returns who was in a network.
func (m *memory) in(network string) []ma.Multiaddr {
	var out []ma.Multiaddr
	for _, x := range m.all {
		if x.Network == network {
			if _, a, ok := x.addr(); ok {
				out = append(out, a)
			}
		}
	}
	return out
}

func (m *memory) save() error { return writeState(m.file, m.all) }
