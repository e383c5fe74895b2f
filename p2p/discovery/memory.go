package discovery

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	ma "github.com/multiformats/go-multiaddr"

	"narbor/p2p/netmon"
	"narbor/store/statefile"
)

// maxMemoryFile bounds the file of remembered peers, in bytes.
const maxMemoryFile = maxNetworks * maxRemembered * (2*netmon.MaxAddrText + maxNetworkKey + 100)

type memo struct {
	Network string    `json:"network"` // as [places] calls it
	Peer    string    `json:"peer"`    // multiaddr with its ID
	Seen    time.Time `json:"seen"`    // give or take memoAge
}

const (
	// memoAge is how old the time of a memo may be before it is written anew.
	memoAge = 24 * time.Hour
	// memoRest is for how long a network of which enough peers are remembered is not worth another one. Where there are
	// more than enough they would take each other's places for ever, and the file be written each time.
	memoRest = time.Hour
)

// A memory records which peers were connected in which network. It contains the names of networks, so only narbor may
// read the file.
type memory struct {
	file   string // "" is none
	all    []memo
	dirty  time.Time // since when it differs from the file; zero: it does not
	failed bool      // it could not be written
}

// loadMemory reads what was written in earlier runs. Of a file that cannot be read as a whole nothing is believed, and
// the memory is empty; it is usable even then.
func loadMemory(file string, now time.Time) (*memory, error) {
	m := &memory{file: file}
	var all []memo
	if err := statefile.Read(file, maxMemoryFile, &all); err != nil {
		return m, err
	}
	for i, x := range all {
		if _, ok := x.addr(); !ok || x.Network == "" || len(x.Network) > maxNetworkKey {
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

func (x memo) addr() (m ma.Multiaddr, ok bool) {
	if len(x.Peer) > netmon.MaxAddrText {
		return nil, false
	}
	m, err := ma.NewMultiaddr(x.Peer)
	if err != nil {
		return nil, false
	}
	_, _, ok = netmon.SplitPeerAddr(m)
	return m, ok
}

// note records that a peer is in a network, and reports whether that is worth being written.
func (m *memory) note(network string, peer ma.Multiaddr, now time.Time) bool {
	text := peer.String()
	i := slices.IndexFunc(m.all, func(x memo) bool { return x.Network == network && x.Peer == text })
	switch {
	case i < 0 && m.isFull(network, now):
		return false
	case i < 0:
		m.all = append(m.all, memo{network, text, now})
	case now.Sub(m.all[i].Seen) < memoAge:
		return false
	default:
		m.all[i].Seen = now
	}
	m.bound(now)
	if m.dirty.IsZero() {
		m.dirty = now
	}
	return true
}

// isFull reports whether enough peers of a network are remembered, and none of them for long.
func (m *memory) isFull(network string, now time.Time) bool {
	fresh := 0
	for _, x := range m.all {
		if x.Network == network && now.Sub(x.Seen) < memoRest {
			fresh++
		}
	}
	return fresh >= maxRemembered
}

// bound removes entries that are too old or too many; the newest stay.
func (m *memory) bound(now time.Time) {
	slices.SortStableFunc(m.all, func(a, b memo) int { return cmp.Compare(b.Seen.Unix(), a.Seen.Unix()) })
	networks, addrs := map[string]int{}, map[string]int{}
	m.all = slices.DeleteFunc(m.all, func(x memo) bool {
		id := x.Peer[strings.LastIndexByte(x.Peer, '/')+1:]
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

func (m *memory) in(network string) []ma.Multiaddr {
	var out []ma.Multiaddr
	for _, x := range m.all {
		if x.Network == network {
			if a, ok := x.addr(); ok {
				out = append(out, a)
			}
		}
	}
	return out
}

func (m *memory) save() error {
	m.dirty = time.Time{}
	err := statefile.Write(m.file, m.all)
	m.failed = err != nil
	return err
}
