// Package ping measures the connection to a neighbour.
package ping

import (
	"context"
	"fmt"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"

	"narbor/p2p/ask"
	"narbor/p2p/discovery"
	"narbor/p2p/fetch"
	"narbor/p2p/peers"
	"narbor/p2p/wire"
	"narbor/store"
	"narbor/trust"
)

// pingWindow is how many blocks are asked for at once, enough to keep a gigabit busy at 8 ms.
const pingWindow = 4

// Config sets how much is measured.
type Config struct {
	Count int   // round trips
	Bytes int64 // of blocks that are fetched and thrown away; 0 is none
	// Paths may be ones that the neighbour has, so that there is something to fetch. Those that were found lately need
	// not be named.
	Paths []store.HashPart
}

// Ping has the measurements of a neighbour.
type Ping struct {
	ID       string    `json:"id"`
	Addr     string    `json:"addr"` // by which it is connected, the other end's
	Local    string    `json:"local"`
	Via      string    `json:"via"`      // how it was found
	Security string    `json:"security"` // of the connection, such as /tls/1.0.0
	Millis   []float64 `json:"millis"`   // of each round trip
	Lost     int       `json:"lost"`     // round trips that had no answer in time
	// Bytes were fetched in Seconds, of the NAR of Path. WireBytes is their size on the wire, compressed.
	Bytes     int64   `json:"bytes"`
	WireBytes int64   `json:"wireBytes"`
	Seconds   float64 `json:"seconds"`
	Path      string  `json:"path"`
	Problem   string  `json:"problem"` // why nothing, or not all, was fetched; "" is none
}

// A Pinger measures the connections to neighbours. Its method may be called concurrently.
type Pinger struct {
	LAN     *discovery.LAN
	Lookups *ask.Lookups
}

// Ping measures the connection to a neighbour: round trips by libp2p's own ping protocol, and throughput by blocks of a
// NAR that it has. It takes as long as ctx allows at most.
func (pg Pinger) Ping(ctx context.Context, nb *peers.Neighbour, cfg Config) Ping {
	lan := pg.LAN
	p := Ping{ID: nb.ID.String(), Via: lan.Via(nb.ID), Millis: []float64{}}
	for _, c := range lan.Host().Network().ConnsToPeer(nb.ID) {
		p.Addr, p.Local, p.Security = lan.Gate.Text(c.RemoteMultiaddr()), lan.Gate.Text(c.LocalMultiaddr()),
			string(c.ConnState().Security)
		break
	}
	p.roundTrips(ctx, lan.Host(), nb, cfg.Count)
	if cfg.Bytes > 0 && p.Lost < cfg.Count {
		m, err := pg.Lookups.Largest(ctx, nb, cfg.Paths)
		if err == nil {
			err = p.throughput(ctx, nb, m, cfg.Bytes)
		}
		if err != nil {
			p.Problem = peers.Bounded(err.Error())
		}
	}
	return p
}

// roundTrips stops at the first that has no answer: a stream that stalls answers none after it.
func (p *Ping) roundTrips(ctx context.Context, h host.Host, nb *peers.Neighbour, count int) {
	ctx, cancel := context.WithCancel(network.WithNoDial(ctx, "neighbours are connected"))
	defer cancel()
	results := ping.Ping(ctx, h, nb.ID)
	for i := range count {
		select {
		case r, ok := <-results:
			if ok && r.Error == nil {
				p.Millis = append(p.Millis, millis(r.RTT))
				continue
			}
		case <-time.After(peers.AskTimeout):
		case <-ctx.Done():
		}
		p.Lost = count - i
		return
	}
}

// throughput fetches so many bytes of blocks of a NAR, over and over.
func (p *Ping) throughput(ctx context.Context, nb *peers.Neighbour, m trust.Mapping, bytes int64) error {
	p.Path = m.Path().String()
	ex, err := nb.Open(ctx, peers.ReadStall)
	if err != nil {
		return err
	}
	defer ex.Reset()
	defer context.AfterFunc(ctx, func() { ex.Reset() })()
	start := time.Now()
	defer func() { p.Seconds = time.Since(start).Seconds() }()
	blocks := store.NumBlocks(m.NarSize())
	ask := wire.Request{Kind: wire.AskBlock, HashParts: []store.HashPart{m.Path().HashPart()}, NAR: m.NarHash()}
	buf := make([]byte, store.BlockSize)
	asked, due := int64(0), 0
	for got := 0; ; got++ {
		for ; asked < bytes && due-got < pingWindow; due++ {
			ask.Block = due % blocks
			asked += int64(store.BlockLen(m.NarSize(), ask.Block))
			if err := ex.Send(ask); err != nil {
				return err
			}
		}
		if got == due {
			return nil
		}
		ex.Until = time.Now().Add(fetch.BlockTimeout)
		block := buf[:store.BlockLen(m.NarSize(), got%blocks)]
		wire, _, err := wire.ReadBlock(ex.Reader, block)
		if err != nil {
			return fmt.Errorf("ended early: %w", err)
		}
		p.Bytes += int64(len(block))
		p.WireBytes += int64(wire)
	}
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
