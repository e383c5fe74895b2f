package main

import (
	"context"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

// peersProtocol is the protocol ID of the peer exchange.
const peersProtocol = "/narbor/peers/1"

// tellsFaults returns the faults in the peer exchange.
func tellsFaults() []discoverFault {
	return []discoverFault{
		{name: "tells-of-nowhere", start: tells(func(w *simWorld) []byte {
			var told []string
			for _, addr := range []string{"/ip4/8.8.8.8/tcp/6273", "/ip4/127.0.0.1/tcp/6273", "/ip4/169.254.169.254/tcp/6273",
				"/ip4/10.0.0.1/tcp/6273", "/ip4/10.0.0.2/tcp/22", "/dns4/attacker.example/tcp/6273", "/ip6/fe80::1/tcp/6273",
				"/ip4/10.0.0.2/udp/6273"} {
				told = append(told, addr+"/p2p/"+w.liar.host.ID().String(), addr+"/p2p/"+w.stranger().String())
			}
			return peersAnswer(told...)
		})},
		{name: "tells-of-unused-address", start: tells(func(w *simWorld) []byte {
			var told []string
			for range 16 {
				told = append(told, "/ip4/10.0.0.200/tcp/6273/p2p/"+w.stranger().String())
			}
			return peersAnswer(told...)
		})},
		{name: "tells-of-alice", start: tells(func(w *simWorld) []byte {
			return peersAnswer("/ip4/10.0.0.66/tcp/6273/p2p/" + w.alice.id.String())
		})},
		{name: "tells-stolen-identity", start: tells(func(w *simWorld) []byte {
			var told []string
			for _, n := range w.honest {
				told = append(told, "/ip4/10.0.0.66/tcp/6273/p2p/"+n.id.String())
			}
			return peersAnswer(told...)
		})},
		{name: "tells-too-many", lie: true, start: tells(func(*simWorld) []byte { return []byte{0, 17} })},
		{name: "tells-too-long", lie: true, start: tells(func(*simWorld) []byte { return []byte{0, 1, 129, 1} })},
		{name: "tells-huge-name", lie: true, start: tells(func(*simWorld) []byte {
			return append(binary.AppendUvarint(nil, 1<<20), make([]byte, 1<<20)...)
		})},
		{name: "tells-control-characters", start: tells(func(*simWorld) []byte { return []byte("\x06\x1b[2J\r\n\x00") })},
		{name: "tells-garbage", lie: true, start: tells(func(*simWorld) []byte { return []byte("\x00\x01\x04\xff\xff\xff\xff") })},
		{name: "tells-half", start: tells(func(w *simWorld) []byte {
			all := peersAnswer("/ip4/10.0.0.2/tcp/6273/p2p/" + w.alice.id.String())
			return all[:len(all)/2]
		})},
		{name: "tells-silent", start: func(w *simWorld) {
			w.liar.host.SetStreamHandler(peersProtocol, func(s network.Stream) { s.Read(make([]byte, 1)) })
		}},
		{name: "asks-for-peers", dials: func(w *simWorld) {
			for range 100 {
				ctx, cancel := context.WithTimeout(w.t.Context(), time.Second)
				s, err := w.liar.host.NewStream(ctx, w.alice.id, peersProtocol)
				cancel()
				if err == nil {
					go s.Write([]byte("garbage"))
				}
			}
		}},
	}
}

// stranger returns the ID of a peer that does not exist.
func (w *simWorld) stranger() peer.ID {
	id, err := peer.IDFromPrivateKey(w.identity())
	if err != nil {
		w.t.Fatal(err)
	}
	return id
}

// tells makes the liar answer each peer exchange with the bytes of answer.
func tells(answer func(*simWorld) []byte) func(*simWorld) {
	return func(w *simWorld) {
		b := answer(w)
		w.liar.host.SetStreamHandler(peersProtocol, func(s network.Stream) {
			s.Write(b)
			s.Close()
		})
	}
}

func peersAnswer(addrs ...string) []byte {
	b := binary.AppendUvarint([]byte{0}, uint64(len(addrs))) // without a name
	for _, a := range addrs {
		m := ma.StringCast(a).Bytes()
		b = append(binary.AppendUvarint(b, uint64(len(m))), m...)
	}
	return b
}

// Each machine receives the announcement of the same one machine only. Peer exchange connects all to all.
func TestPeerExchangeConnectsAllMachines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 1)
		hub, others := w.honest[0], append(slices.Clone(w.honest[1:]), w.alice)
		for _, n := range others {
			n.machine.found <- hub.machine.entry(hub.id)
		}
		began := time.Now()
		for _, n := range others {
			for len(n.Status().Neighbours) < len(others) {
				if time.Since(began) > 15*time.Second {
					t.Fatalf("%s has %d neighbours, want %d", n.machine.addr, len(n.Status().Neighbours), len(others))
				}
				time.Sleep(10 * time.Millisecond)
			}
		}
		t.Logf("all %d machines are neighbours %s after each received one announcement", len(others)+1, time.Since(began))
		vias := map[string]int{}
		for _, n := range others {
			for _, nb := range n.Status().Neighbours {
				vias[nb.Via]++
			}
		}
		t.Logf("found by %v", vias)
		if vias["exchange"] < len(others)*(len(others)-1)/2 || vias["mdns"] != len(others) {
			t.Errorf("found by %v, want the first by mdns and the others by exchange or as inbound connections", vias)
		}
		w.endWhole()
	})
}

// A machine dials an address from a peer exchange, and does not pass on the address to others unless it is connected.
func TestUnreachablePeerIsNotExchangedFurther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 1)
		w.commit(fault{})
		const unused = "10.0.0.200"
		tells(func(w *simWorld) []byte {
			return peersAnswer("/ip4/" + unused + "/tcp/6273/p2p/" + w.stranger().String())
		})(w)
		bob := w.honest[0]
		w.find(w.mallet, w.liar.host.ID())
		w.find(bob.machine, bob.id)
		time.Sleep(time.Minute)
		tried := func(n *simNode) bool {
			w.lan.mu.Lock()
			defer w.lan.mu.Unlock()
			return slices.ContainsFunc(w.lan.dials[n.machine.addr], func(to netip.AddrPort) bool { return to.Addr().String() == unused })
		}
		if !tried(w.alice) {
			t.Error("alice has not dialled the address that the liar sent")
		}
		if len(bob.Status().Neighbours) == 0 {
			t.Error("bob has no neighbour")
		}
		// Alice's own answer has only the peers that she is connected to.
		s, err := w.liar.host.NewStream(t.Context(), w.alice.id, peersProtocol)
		if err != nil {
			t.Fatal(err)
		}
		s.CloseWrite()
		var answer [4096]byte
		n := 0
		for {
			k, err := s.Read(answer[n:])
			if n += k; err != nil {
				break
			}
		}
		if want := peersAnswer("/ip4/10.0.0.2/tcp/6273/p2p/" + bob.id.String()); !slices.Equal(answer[:n], want) {
			t.Errorf("alice tells %x, want bob alone, %x", answer[:n], want)
		}
		w.endWhole()
	})
}
