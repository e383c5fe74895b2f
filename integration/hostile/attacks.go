package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"narbor/store"
)

const (
	greedyStreams = 32   // to each neighbour
	greedyAhead   = 64   // requests under way on each
	probeBatch    = 1024 // hash parts in a request
	reportEvery   = time.Second
)

func attacks() []fault {
	return []fault{
		{name: "greedy", says: "downloads all that this machine has from each peer, on 32 streams each, without end, as --count identities",
			attack: eachNeighbour(greedy)},
		{name: "deaf", says: "asks for blocks on 32 streams and reads no answer", attack: eachNeighbour(deaf)},
		{name: "probe", says: "asks each peer for 1,024 random hash parts at a time, without end", attack: eachNeighbour(probe)},
		{name: "garbage-request", says: "malformed requests, each on a new stream", attack: eachNeighbour(garbage)},
		{name: "identities", says: "1,000 identities that connect and ask, from this one address", attack: eachNeighbour(identities)},
		{name: "mdns-flood", says: "10,000 announcements in a minute of peers at off-link, loopback, metadata and gateway addresses",
			attack: flood},
		{name: "mdns-fat", says: "announcements of 65,000 strings each", attack: fatFlood},
	}
}

// eachNeighbour returns an attack that runs one against each announced peer.
func eachNeighbour(
	one func(ctx context.Context, m *machine, f fault, info peer.AddrInfo),
) func(context.Context, *machine, fault) error {
	return func(ctx context.Context, m *machine, f fault) error {
		var running sync.WaitGroup
		defer running.Wait()
		return m.neighbours(ctx, func(info peer.AddrInfo) { running.Go(func() { one(ctx, m, f, info) }) })
	}
}

// onStreams calls use on n concurrent streams until ctx ends. Each stream that ends is replaced by a new one.
func onStreams(ctx context.Context, h host.Host, info peer.AddrInfo, n int, use func(network.Stream) error) {
	var running sync.WaitGroup
	defer running.Wait()
	for range n {
		running.Go(func() {
			for ctx.Err() == nil {
				err := onStream(ctx, h, info, use)
				if err != nil && !sleep(ctx, 100*time.Millisecond) {
					return
				}
			}
		})
	}
}

func onStream(ctx context.Context, h host.Host, info peer.AddrInfo, use func(network.Stream) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := h.Connect(ctx, info); err != nil {
		return err
	}
	s, err := h.NewStream(ctx, info.ID, protocolID)
	if err != nil {
		return err
	}
	defer s.Reset()
	stop := context.AfterFunc(ctx, func() { s.Reset() })
	defer stop()
	return use(s)
}

// report logs the counter n every second if it has changed.
func (m *machine) report(ctx context.Context, f fault, info peer.AddrInfo, what string, n *atomic.Int64) {
	for last := int64(-1); sleep(ctx, reportEvery); {
		if now := n.Load(); now != last {
			m.offence(f, "%s: %d %s", info.ID, now, what)
			last = now
		}
	}
}

// wanted returns a request for every block that this machine knows of.
func (m *machine) wanted(ctx context.Context) []request {
	var all []request
	for _, p := range m.paths(ctx) {
		info, err := m.nix.Info(ctx, p.HashPart())
		for i := 0; err == nil && i < store.NumBlocks(info.NarSize); i++ {
			all = append(all, request{kind: kindBlock, parts: []store.HashPart{p.HashPart()}, nar: info.NarHash, block: i})
		}
	}
	return all
}

func greedy(ctx context.Context, m *machine, f fault, info peer.AddrInfo) {
	all := m.wanted(ctx)
	if len(all) == 0 {
		return
	}
	var next, got atomic.Int64
	go m.report(ctx, f, info, "bytes of blocks", &got)
	var running sync.WaitGroup
	defer running.Wait()
	for i := range max(m.count, 1) {
		h := m.host
		if i > 0 {
			var err error
			if h, err = newHost(); err != nil {
				m.offence(f, "no host: %v", err)
				return
			}
			h.SetStreamHandler(protocolID, func(s network.Stream) { s.Reset() }) // or it is no neighbour
		}
		running.Go(func() {
			defer h.Close()
			download(ctx, h, info, all, &next, &got)
		})
	}
}

// download asks for block after block without end.
func download(ctx context.Context, h host.Host, info peer.AddrInfo, all []request, next, got *atomic.Int64) {
	onStreams(ctx, h, info, greedyStreams, func(s network.Stream) error {
		ask := func() error {
			_, err := s.Write(all[int(next.Add(1))%len(all)].frame())
			return err
		}
		for range greedyAhead {
			if err := ask(); err != nil {
				return err
			}
		}
		for br := bufio.NewReader(s); ; {
			n, err := skipBlock(br)
			if err != nil {
				return err
			}
			got.Add(int64(n))
			if err := ask(); err != nil {
				return err
			}
		}
	})
}

func deaf(ctx context.Context, m *machine, f fault, info peer.AddrInfo) {
	all := m.wanted(ctx)
	var asked atomic.Int64
	go m.report(ctx, f, info, "requests", &asked)
	onStreams(ctx, m.host, info, greedyStreams, func(s network.Stream) error {
		for _, r := range all {
			if _, err := s.Write(r.frame()); err != nil {
				return err
			}
			asked.Add(1)
		}
		<-ctx.Done()
		return ctx.Err()
	})
}

// probe asks for hash parts in batches: this machine's own paths, which the peer may have, and random ones.
func probe(ctx context.Context, m *machine, f fault, info peer.AddrInfo) {
	var tried, hits atomic.Int64
	go m.report(ctx, f, info, "hash parts tried", &tried)
	go m.report(ctx, f, info, "hash parts found", &hits)
	own := m.paths(ctx)
	onStreams(ctx, m.host, info, 4, func(s network.Stream) error {
		for br := bufio.NewReader(s); ; {
			r := request{kind: kindClaims}
			for i := range probeBatch {
				var raw [20]byte
				rand.Read(raw[:])
				hp := store.HashPartFromBytes(raw)
				if i < len(own) {
					hp = own[i].HashPart()
				}
				r.parts = append(r.parts, hp)
			}
			if _, err := s.Write(r.frame()); err != nil {
				return err
			}
			for range r.parts {
				text, err := readClaim(br)
				if err != nil {
					return err
				}
				tried.Add(1)
				if text != "" {
					hits.Add(1)
				}
			}
			if err := skipFurther(br); err != nil {
				return err
			}
		}
	})
}

func garbage(ctx context.Context, m *machine, f fault, info peer.AddrInfo) {
	var sent atomic.Int64
	go m.report(ctx, f, info, "broken requests", &sent)
	onStreams(ctx, m.host, info, 1, func(s network.Stream) error {
		b := make([]byte, 4<<10)
		rand.Read(b)
		sent.Add(1)
		if _, err := s.Write(append([]byte{0xff, 0xff, 0xff, 0x7f}, b...)); err != nil {
			return err
		}
		_, err := s.Read(b)
		return fmt.Errorf("answered: %w", err)
	})
}

// identities connects with --count new identities and keeps each connection open, with streams full of requests.
func identities(ctx context.Context, m *machine, f fault, info peer.AddrInfo) {
	count := m.count
	if count == 0 {
		count = 1000
	}
	all := m.wanted(ctx)
	var connected, tried atomic.Int64
	go m.report(ctx, f, info, "identities got in", &connected)
	go m.report(ctx, f, info, "identities tried", &tried)
	var running sync.WaitGroup
	defer running.Wait()
	slots := make(chan struct{}, 64) // handshakes at once
	for range count {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		running.Go(func() {
			h, err := newHost()
			if err != nil {
				<-slots
				return
			}
			defer h.Close()
			h.SetStreamHandler(protocolID, func(s network.Stream) { s.Reset() }) // or it is no neighbour
			dial, cancel := context.WithTimeout(ctx, 5*time.Second)
			err = h.Connect(dial, info)
			cancel()
			<-slots
			tried.Add(1)
			if err != nil {
				return
			}
			connected.Add(1)
			onStreams(ctx, h, info, 8, func(s network.Stream) error {
				for _, r := range all {
					if _, err := s.Write(r.frame()); err != nil {
						return err
					}
				}
				<-ctx.Done()
				return ctx.Err()
			})
		})
	}
}
