package p2p

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"narbor/p2p/p2ptest"
	"narbor/p2p/wire"
	"narbor/store"
	"narbor/trust/trusttest"
)

// sharing is a node that shares one path.
func sharing(t testing.TB, nar []byte) (n *Node, info store.Info) {
	s := trusttest.NewSigner(t)
	info, _ = s.Sign(t, "shared", nar)
	mem := new(store.Mem)
	mem.Add(info, nar)
	n, _ = runNode(t, s, []store.Source{mem})
	return n, info
}

func blockRequest(info store.Info, i int) wire.Request {
	return wire.Request{Kind: wire.AskBlock, HashParts: []store.HashPart{info.Path.HashPart()}, NAR: info.NarHash, Block: i}
}

// ended waits until the other side has ended a stream, and returns what came on it before.
func ended(t testing.TB, s network.Stream) []byte {
	t.Helper()
	s.SetReadDeadline(time.Now().Add(atMost(20 * time.Second)))
	b, err := io.ReadAll(s)
	if err == nil || strings.Contains(err.Error(), "deadline") {
		t.Errorf("the stream ended with %v, want a reset", err)
	}
	return b
}

func TestBrokenRequestsCostTheirSender(t *testing.T) {
	n, info := sharing(t, randomNAR(1000))
	good := blockRequest(info, 0).Append(nil)
	for name, in := range map[string][]byte{
		"65 KiB":         append([]byte{0x80, 0x80, 0x04}, make([]byte, 1<<16)...),
		"garbage":        p2ptest.Random(3000),
		"empty":          {0},
		"endless length": bytes.Repeat([]byte{0xff}, 100),
		"unknown kind":   {1, 99},
		"after good one": append(bytes.Clone(good), 1, 99),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := (&rogue{}).start(t)
			s := g.dial(t, n)
			s.Write(in)
			ended(t, s)
			if got := strikesOf(n, g); got != 1 {
				t.Errorf("it has %d strikes, want 1", got)
			}
		})
	}
}

func TestStalledReaderDelaysNoOthers(t *testing.T) {
	nar := randomNAR(4 * store.BlockSize)
	n, info := sharing(t, nar)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	frame := bytes.Repeat(blockRequest(info, 0).Append(nil), 2000)
	for range 2 {
		g := (&rogue{}).start(t)
		for range 40 {
			s := g.dial(t, n)
			s.SetWriteDeadline(time.Now().Add(atMost(20 * time.Second)))
			if _, err := s.Write(frame); err != nil {
				t.Fatal(err)
			}
		}
	}
	honest := (&rogue{}).start(t)
	s := honest.dial(t, n)
	defer s.Reset()
	s.SetDeadline(time.Now().Add(atMost(20 * time.Second)))
	got := make([]byte, store.BlockSize)
	br := bufio.NewReader(s)
	for i := range 4 {
		s.Write(blockRequest(info, i).Append(nil))
		if _, _, err := wire.ReadBlock(br, got); err != nil || !bytes.Equal(got, nar[i*store.BlockSize:][:store.BlockSize]) {
			t.Fatalf("block %d for a peer that reads = %v, or other bytes", i, err)
		}
	}
	for range 2 { // the first moves pooled buffers to the victim cache, the second frees them
		runtime.GC()
	}
	runtime.ReadMemStats(&after)
	// Up to 80 MiB are unread data of the rogues, in the same process. The blocks of all their requests would take 40
	// GiB.
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 160<<20 {
		t.Errorf("the heap has grown by %d MiB", grown>>20)
	}
}

// A counted source counts the NARs that it has open.
type counted struct {
	store.Source
	open atomic.Int64
}

type countedNAR struct {
	store.NAR
	src *counted
}

func (c *counted) NAR(ctx context.Context, info store.Info) (store.NAR, error) {
	nar, err := c.Source.NAR(ctx, info)
	if err == nil {
		c.open.Add(1)
	}
	return countedNAR{nar, c}, err
}

func (n countedNAR) Close() error {
	n.src.open.Add(-1)
	return n.NAR.Close()
}

func TestRunLeavesNothingBehind(t *testing.T) {
	defer p2ptest.LeavesNothing(t)()
	t.Run("", func(t *testing.T) {
		s := trusttest.NewSigner(t)
		nar := randomNAR(20 * store.BlockSize)
		info, m := s.Sign(t, "shared", nar)
		src := &counted{Source: new(store.Mem)}
		src.Source.(*store.Mem).Add(info, nar)
		quick := (&rogue{info: info, nar: nar}).start(t)
		silent := (&rogue{info: info, nar: nar, block: func(s network.Stream, _ int, _ []byte) error {
			io.Copy(io.Discard, s)
			return errEnd
		}}).start(t)
		n, stop := runNode(t, s, []store.Source{src}, quick, silent)
		fetchAll(t, n, m, nar)
		reader := quick.dial(t, n)
		reader.Write(bytes.Repeat(blockRequest(info, 3).Append(nil), 1000)) // answered when Run ends
		br, b := bufio.NewReader(reader), make([]byte, store.BlockSize)
		if _, _, err := wire.ReadBlock(br, b); err != nil && err != store.ErrNotFound {
			t.Fatal(err)
		}
		stop()
		if got := src.open.Load(); got != 0 {
			t.Errorf("%d NARs are open after Run", got)
		}
		if _, err := n.Fetch(t.Context(), m); err == nil {
			t.Error("Fetch after Run works")
		}
		if _, err := n.Lookup(t.Context(), info.Path.HashPart()); err == nil {
			t.Error("Lookup after Run works")
		}
	})
}
