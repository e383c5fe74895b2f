package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/zeroconf/v2"

	"narbor/p2p"
	"narbor/store"
)

// A discoverFault is committed by a peer in its announcements, in its handshake or on new connections.
type discoverFault struct {
	name string
	lie  bool
	// found returns the multicast DNS entries that alice receives; nil announces the liar correctly.
	found func(w *simWorld) []*zeroconf.ServiceEntry
	raw   func(net.Conn)    // serves incoming connections in place of libp2p
	start func(w *simWorld) // changes how the liar answers
	dials func(w *simWorld) // is called when alice is connected
}

// says announces the liar at an address.
func says(addr string) func(w *simWorld) []*zeroconf.ServiceEntry {
	return func(w *simWorld) []*zeroconf.ServiceEntry {
		return []*zeroconf.ServiceEntry{at(addr, w.liar.host.ID())}
	}
}

func at(addr string, id peer.ID) *zeroconf.ServiceEntry {
	return announced(fmt.Sprintf("%s%s/p2p/%s", addrPrefix, addr, id))
}

// crowd announces n peers that do not exist, all at addr.
func crowd(n int, addr string) func(w *simWorld) []*zeroconf.ServiceEntry {
	return func(w *simWorld) (all []*zeroconf.ServiceEntry) {
		for range n {
			id, err := peer.IDFromPrivateKey(w.identity())
			if err != nil {
				w.t.Fatal(err)
			}
			all = append(all, at(addr, id))
		}
		return all
	}
}

func discoverFaults() []discoverFault {
	const malletAddr, unusedAddr = "/ip4/10.0.0.66/tcp/6273", "/ip4/10.0.0.200/tcp/6273"
	var asked atomic.Uint64 // hash parts, of all cases
	return []discoverFault{
		{name: "off-link", found: says("/ip4/8.8.8.8/tcp/6273")},
		{name: "loopback", found: says("/ip4/127.0.0.1/tcp/6273")},
		{name: "metadata", found: says("/ip4/169.254.169.254/tcp/6273")},
		{name: "own-address", found: says("/ip4/10.0.0.1/tcp/6273")},
		{name: "low-port", found: says("/ip4/10.0.0.2/tcp/22")},
		{name: "name", found: says("/dns4/attacker.example/tcp/6273")},
		{name: "relay", found: says("/ip4/10.0.0.2/tcp/6273/p2p-circuit")},
		{name: "refused", found: says("/ip4/10.0.0.66/tcp/7000")},
		{name: "unused-address", found: says(unusedAddr)},
		{name: "garbage", found: func(*simWorld) []*zeroconf.ServiceEntry {
			long := addrPrefix + strings.Repeat("/ip4", 10000)
			return []*zeroconf.ServiceEntry{announced("\x00", addrPrefix, long, strings.Repeat("x", 1<<20))}
		}},
		{name: "fat", found: func(w *simWorld) []*zeroconf.ServiceEntry {
			e := w.mallet.entry(w.liar.host.ID())
			for i := range 65_000 {
				e.Text = append(e.Text, fmt.Sprintf("%s/ip4/10.0.0.%d/tcp/%d/p2p/%s", addrPrefix, i%250, 1024+i, w.liar.host.ID()))
			}
			return []*zeroconf.ServiceEntry{e}
		}},
		{name: "expired", found: func(w *simWorld) []*zeroconf.ServiceEntry {
			e := w.mallet.entry(w.liar.host.ID())
			e.Expiry = time.Now().Add(-time.Hour)
			return []*zeroconf.ServiceEntry{e}
		}},
		{name: "alices-own-id", found: func(w *simWorld) []*zeroconf.ServiceEntry {
			return []*zeroconf.ServiceEntry{w.mallet.entry(w.alice.id)}
		}},
		{name: "stolen-address", found: says("/ip4/10.0.0.2/tcp/6273")},
		{name: "stolen-identity", found: func(w *simWorld) (all []*zeroconf.ServiceEntry) {
			for _, n := range w.honest {
				all = append(all, w.mallet.entry(n.id))
			}
			return all
		}},
		{name: "crowd-nowhere", found: crowd(1000, unusedAddr)},
		{name: "crowd-here", found: crowd(200, malletAddr)},
		{name: "dumb", raw: func(c net.Conn) { io.Copy(io.Discard, c) }},
		{name: "closes", raw: func(net.Conn) {}},
		{name: "noise", raw: func(c net.Conn) { io.WriteString(c, strings.Repeat("noise", 1000)) }},
		{name: "endless-noise", raw: func(c net.Conn) {
			for b := make([]byte, 64<<10); ; {
				if _, err := c.Write(b); err != nil {
					return
				}
			}
		}},
		{name: "echo", raw: func(c net.Conn) { io.Copy(c, c) }},
		{name: "trickle", raw: func(c net.Conn) {
			for _, b := range []byte("\x13/multistream/1.0.0\n" + strings.Repeat("x", 100)) {
				if _, err := c.Write([]byte{b}); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		}},
		{name: "half-handshake", raw: func(c net.Conn) {
			io.WriteString(c, "\x13/multistream/1.0.0\n")
			io.ReadFull(c, make([]byte, 100))
		}},
		{name: "hangs-up", start: func(w *simWorld) {
			w.liar.host.Network().Notify(&network.NotifyBundle{ConnectedF: func(_ network.Network, c network.Conn) { go c.Close() }})
		}},
		{name: "other-protocol", start: func(w *simWorld) { w.liar.host.RemoveStreamHandler(protocolID) }},
		{name: "reset-stream", start: commits("reset-stream")},
		{name: "silent", start: commits("silent")},
		{name: "endless-stream", lie: true, start: commits("endless-stream")},
		{name: "garbage-request", lie: true, dials: onAlice(1, func(s network.Stream) { s.Write(sized([]byte("\xffgarbage"))) })},
		{name: "endless-request", lie: true, dials: onAlice(1, func(s network.Stream) { noise(context.Background(), s) })},
		{name: "many-streams", dials: onAlice(100, func(s network.Stream) { s.Write([]byte{200}) })},
		{name: "probing", lie: true, dials: onAlice(20, func(s network.Stream) {
			for range 100 {
				parts := make([]store.HashPart, 100)
				for i := range parts { // each another one: a question that is repeated counts once
					parts[i] = store.HashPartFromBytes([20]byte(binary.BigEndian.AppendUint64(make([]byte, 12), asked.Add(1))))
				}
				s.Write(request{kind: kindClaims, parts: parts}.frame())
			}
		})},
	}
}

func commits(name string) func(w *simWorld) {
	return func(w *simWorld) {
		for _, f := range streamFaults() {
			if f.name == name {
				w.commit(f)
			}
		}
	}
}

// onAlice calls use on each of n streams that the liar opens to alice.
func onAlice(n int, use func(network.Stream)) func(*simWorld) {
	return func(w *simWorld) {
		for range n {
			ctx, cancel := context.WithTimeout(w.t.Context(), time.Second)
			s, err := w.liar.host.NewStream(ctx, w.alice.id, protocolID)
			cancel()
			if err != nil {
				return
			}
			go use(s)
		}
	}
}

// discoverCases returns cases in which the liar is announced after a given number of the honest peers. Discovery must
// still end in time, all honest peers must become neighbours, and Nix must get the path that it asks for.
func discoverCases() (cases []matrixCase) {
	for _, f := range slices.Concat(discoverFaults(), tellsFaults()) {
		for before := range positions {
			cases = append(cases, matrixCase{fmt.Sprintf("discover/%s/%d", f.name, before), func(t *testing.T, seed uint64) {
				w := newWorld(t, seed, 2)
				w.mallet.raw = f.raw
				w.commit(fault{})
				if f.start != nil {
					f.start(w)
				}
				for i, n := range w.honest {
					if i == before {
						w.announceLiar(f)
					}
					w.find(n.machine, n.id)
				}
				if before == len(w.honest) {
					w.announceLiar(f)
				}
				w.wantDiscovered()
				if f.dials != nil {
					time.Sleep(3 * time.Second)
					f.dials(w)
					time.Sleep(time.Second)
				}
				w.wantNarinfo(w.paths[0], false)
				w.wantNAR(w.paths[0], 0, false)
				w.end(map[bool]offence{false: noOffence, true: aLie}[f.lie])
			}})
		}
	}
	return cases
}

func (w *simWorld) announceLiar(f discoverFault) {
	all := []*zeroconf.ServiceEntry{w.mallet.entry(w.liar.host.ID())}
	if f.found != nil {
		all = f.found(w)
	}
	for _, e := range all {
		w.alice.machine.found <- e
	}
}

// wantDiscovered waits until discovery has ended. It fails if that takes over 2.1 s, or if an honest peer is no
// neighbour 10 s later.
func (w *simWorld) wantDiscovered() {
	began := time.Now()
	<-w.alice.Settled()
	if d := time.Since(began); d > 2100*time.Millisecond {
		w.t.Errorf("discovery is over after %v", d)
	}
	time.Sleep(10 * time.Second)
	for _, n := range w.honest {
		if !slices.ContainsFunc(w.alice.Status().Neighbours, func(s p2p.NeighbourStatus) bool { return s.ID == n.id.String() }) {
			w.t.Errorf("%s is no neighbour", n.machine.addr)
		}
	}
}

func TestDiscover(t *testing.T) { runCases(t, discoverCases()) }
