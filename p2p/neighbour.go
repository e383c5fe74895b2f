package p2p

import (
	"bufio"
	"context"
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
	// openTimeout bounds how long opening a stream to a connected neighbour may take.
	openTimeout = 3 * time.Second
	// askTimeout is how long a neighbour may leave a question about claims unanswered before the stream is given
	// up. It is longer than anybody waits for the answer, so that one late answer does not cost a new stream.
	askTimeout = 2 * time.Second
	// claimsTimeout bounds the answers to one request about claims, trickle as they may.
	claimsTimeout = 10 * time.Second
	// lateAfter is how long a neighbour may leave all questions unanswered before nobody waits for it any more. A
	// moment's stall of a busy machine must not turn into a burst of misses, which Nix would remember for an hour; one
	// that has died costs this once, and its connection is gone after 8 s.
	lateAfter = time.Second
	// readStall is how long a block may make no progress. Whoever else has the block has been asked by then; this
	// only frees what waits for a neighbour that will never answer.
	readStall = 5 * time.Second
	// maxIdleStreams is how many streams are kept open between NARs to one neighbour: Nix fetches up to 16 at once.
	maxIdleStreams = 16
)

// A tally is what a peer has done, kept when it disconnects.
type tally struct {
	turns turns

	claims, blocksReceived, bytesReceived atomic.Int64
	claimsSent, blocksSent, bytesSent     atomic.Int64
	strikes                               atomic.Int64
	wireReceived, wireSent                atomic.Int64 // bytes of blocks on the wire, packed as they were
	wasted                                atomic.Int64 // bytes received that somebody else had delivered first
}

// A neighbour is a connected peer that speaks our protocol. It ends when its connection does.
type neighbour struct {
	id    peer.ID
	host  host.Host
	since time.Time
	tally *tally
	asks  chan *ask
	done  chan struct{} // closed when the neighbour is gone

	busy atomic.Int32 // blocks asked for and not yet here
	late atomic.Int64 // since when (Unix ns) it has not answered in time, nor anything on that stream; 0 if it has

	mu        sync.Mutex // guards idle and blockTime
	idle      []*exchange
	blockTime time.Duration // moving average from one block to the next while busy; 0 is unknown
}

// An ask is a question for one claim. Its answer goes to reply, which has room for it.
type ask struct {
	hp    store.HashPart
	reply chan<- reply
}

type reply struct {
	from *neighbour
	text string // "" is "not here"
	err  error
}

// An exchange is a stream on which blocks are asked for; one goroutine at a time has it.
type exchange struct {
	network.Stream
	br    *bufio.Reader
	stall time.Duration // how long a read may make no progress
	until time.Time     // when what is being read must be here, whatever progress it makes; zero is no limit
	kept  bool          // it was kept open, and nothing has been read from it since
}

// isLate says whether the neighbour has been silent for so long that nobody should wait for it.
func (n *neighbour) isLate() bool {
	since := n.late.Load()
	return since != 0 && time.Now().UnixNano()-since > int64(lateAfter)
}

func (n *neighbour) open(ctx context.Context, stall time.Duration) (*exchange, error) {
	ctx, cancel := context.WithTimeout(network.WithNoDial(ctx, "neighbours are connected"), openTimeout)
	defer cancel()
	s, err := n.host.NewStream(ctx, n.id, protocolID)
	if err != nil {
		return nil, fmt.Errorf("neighbour %s: %w", n.id, err)
	}
	ex := &exchange{Stream: s, stall: stall}
	ex.br = bufio.NewReaderSize(ex, 16<<10)
	return ex, nil
}

// take returns a stream for blocks on which nothing is under way.
func (n *neighbour) take(ctx context.Context) (*exchange, error) {
	n.mu.Lock()
	if last := len(n.idle) - 1; last >= 0 {
		ex := n.idle[last]
		n.idle = n.idle[:last]
		n.mu.Unlock()
		return ex, nil
	}
	n.mu.Unlock()
	return n.open(ctx, readStall)
}

// put gives back a stream on which every answer has been read.
func (n *neighbour) put(ex *exchange) {
	n.mu.Lock()
	select {
	case <-n.done:
	default:
		if len(n.idle) < maxIdleStreams {
			ex.kept = true
			n.idle = append(n.idle, ex)
			n.mu.Unlock()
			return
		}
	}
	n.mu.Unlock()
	ex.Reset() // may wait for a connection that is stuck
}

// leave drops what the neighbour's end makes useless.
func (n *neighbour) leave() {
	close(n.done)
	n.mu.Lock()
	idle := n.idle
	n.idle = nil
	n.mu.Unlock()
	for _, ex := range idle {
		ex.Reset()
	}
}

// send asks for one thing on an exchange.
func (ex *exchange) send(r request) error {
	if err := ex.SetWriteDeadline(time.Now().Add(readStall)); err != nil {
		return err
	}
	_, err := ex.Write(appendRequest(nil, r))
	return err
}

// Read gives each read its own deadline, so that a slow neighbour is heard and a silent one is not.
func (ex *exchange) Read(p []byte) (int, error) {
	deadline := time.Now().Add(ex.stall)
	if !ex.until.IsZero() && ex.until.Before(deadline) {
		deadline = ex.until
	}
	if err := ex.SetReadDeadline(deadline); err != nil {
		return 0, err
	}
	return ex.Stream.Read(p)
}

// expect returns the estimate for one more block, and ok false if nothing has been measured yet.
func (n *neighbour) expect() (d time.Duration, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.blockTime, n.blockTime > 0
}

// measured takes in the time that a block of size bytes took, scaled to a full one.
func (n *neighbour) measured(d time.Duration, size int) {
	d = max(d, 50*time.Microsecond)
	if size < store.BlockSize/4 {
		size = store.BlockSize / 4 // the round trip dominates: don't blow it up
	}
	d = time.Duration(float64(d) * store.BlockSize / float64(size))
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.blockTime == 0 {
		n.blockTime = d
	} else {
		n.blockTime += (d - n.blockTime) / 4
	}
}

// askLoop sends questions about claims and hands out the answers, until the neighbour is gone. Questions that
// wait are put into one request; several requests may be under way.
func (n *neighbour) askLoop(ctx context.Context) {
	var batch []*ask
	for {
		if batch == nil {
			select {
			case a := <-n.asks:
				batch = []*ask{a}
			case <-n.done:
				return
			case <-ctx.Done():
				return
			}
		}
		batch = n.askOn(ctx, batch)
	}
}

// askOn asks a batch first, and all that comes after it, on one stream until that fails. It returns questions that
// it has taken and not asked, because the stream had failed before.
func (n *neighbour) askOn(ctx context.Context, batch []*ask) (left []*ask) {
	ex, err := n.open(ctx, askTimeout)
	if err != nil {
		fail(n, batch, err)
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { ex.Reset() })
	defer stop()

	sent := make(chan []*ask, 64)
	var readers sync.WaitGroup
	readers.Go(func() {
		for batch := range sent {
			if !ex.readClaims(n, batch) {
				cancel()
			}
		}
	})
	defer readers.Wait()
	defer close(sent)
	for used := false; ; used = true {
		batch = n.more(batch)
		if err := ex.ask(batch); err != nil && used {
			return batch
		} else if err != nil {
			fail(n, batch, err)
			return nil
		}
		select {
		case sent <- batch:
		case <-ctx.Done():
			fail(n, batch, ctx.Err())
			return nil
		}
		select {
		case a := <-n.asks:
			batch = []*ask{a}
		case <-n.done:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// ask sends a batch of questions in one request.
func (ex *exchange) ask(batch []*ask) error {
	r := request{kind: askClaims}
	for _, a := range batch {
		r.hashParts = append(r.hashParts, a.hp)
	}
	return ex.send(r)
}

// more adds the questions that wait already.
func (n *neighbour) more(batch []*ask) []*ask {
	for len(batch) < maxClaims {
		select {
		case a := <-n.asks:
			batch = append(batch, a)
		default:
			return batch
		}
	}
	return batch
}

// readClaims answers each ask of a batch exactly once. It returns false if the stream is of no more use.
func (ex *exchange) readClaims(n *neighbour, batch []*ask) bool {
	ex.until = time.Now().Add(claimsTimeout)
	for i, a := range batch {
		text, err := readClaim(ex.br)
		n.late.Store(0) // it has answered, or is asked on a new stream from now on and deserves a new chance
		if err != nil {
			ex.Reset()
			fail(n, batch[i:], err)
			return false
		}
		a.reply <- reply{n, text, nil}
	}
	return true
}

func fail(n *neighbour, batch []*ask, err error) {
	for _, a := range batch {
		a.reply <- reply{n, "", fmt.Errorf("neighbour %s: %w", n.id, err)}
	}
}
