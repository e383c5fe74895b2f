package p2p

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"time"

	"narbor/store"
)

const (
	// askTimeout is how long a neighbour may leave a question about claims unanswered before the stream is given
	// up. It is longer than anybody waits for the answer, so that one late answer does not cost a new stream.
	askTimeout = 2 * time.Second
	// claimsTimeout bounds the answers to one request about claims, trickle as they may.
	claimsTimeout = 10 * time.Second
	// lateAfter is how long a neighbour may leave all questions unanswered before nobody waits for it any more. A
	// moment's stall of a busy machine must not turn into a burst of misses, which Nix would remember for an hour; one
	// that has died costs this once, and its connection is gone after 8 s.
	lateAfter = time.Second
	// maxAsked is how many requests about claims may be under way to one neighbour. Questions that come meanwhile
	// wait and go out together: they would be answered after the others anyway, and what each message costs, on both
	// sides, is ten times what another question in it costs.
	maxAsked = 1
)

// isLate says whether the neighbour has been silent for so long that nobody should wait for it.
func (n *neighbour) isLate() bool {
	since := n.late.Load()
	return since != 0 && time.Now().UnixNano()-since > int64(lateAfter)
}

// askLoop sends questions about claims and hands out the answers, until the neighbour is gone.
func (n *neighbour) askLoop(ctx context.Context) {
	var batch []*lookup
	for {
		if batch == nil {
			select {
			case l := <-n.asks:
				batch = []*lookup{l}
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
func (n *neighbour) askOn(ctx context.Context, batch []*lookup) (left []*lookup) {
	ex, err := n.open(ctx, askTimeout)
	if err != nil {
		n.fail(batch, err)
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { ex.Reset() })
	defer stop()

	turns := make(chan struct{}, maxAsked)
	sent := make(chan []*lookup, maxAsked) // has room: whoever sends has a turn
	var readers sync.WaitGroup
	readers.Go(func() {
		for batch := range sent {
			if !ex.readClaims(n, batch) {
				cancel()
			}
			<-turns
		}
	})
	defer readers.Wait()
	defer close(sent)
	for used := false; ; used = true {
		select {
		case turns <- struct{}{}:
		case <-ctx.Done():
			n.fail(batch, ctx.Err())
			return nil
		}
		batch = n.more(batch)
		if err := ex.ask(batch); err != nil && used {
			return batch
		} else if err != nil {
			n.fail(batch, err)
			return nil
		}
		sent <- batch
		select {
		case l := <-n.asks:
			batch = []*lookup{l}
		case <-n.done:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// ask sends a batch of questions in one request.
func (ex *exchange) ask(batch []*lookup) error {
	r := request{kind: askClaims, hashParts: make([]store.HashPart, len(batch))}
	for i, l := range batch {
		r.hashParts[i] = l.hp
	}
	return ex.send(r)
}

// more adds the questions that wait already, or are about to: who asks one often has others that are ready to run.
func (n *neighbour) more(batch []*lookup) []*lookup {
	runtime.Gosched()
	for len(batch) < maxClaims {
		select {
		case l := <-n.asks:
			batch = append(batch, l)
		default:
			return batch
		}
	}
	return batch
}

// readClaims answers each question of a batch exactly once. It returns false if the stream is of no more use.
func (ex *exchange) readClaims(n *neighbour, batch []*lookup) bool {
	ex.until = time.Now().Add(claimsTimeout)
	for i, l := range batch {
		text, err := readClaim(ex.br)
		n.late.Store(0) // it has answered, or is asked on a new stream from now on and deserves a new chance
		if err != nil {
			ex.Reset()
			n.fail(batch[i:], err)
			return false
		}
		l.answered(reply{n, text, nil})
	}
	return true
}

func (n *neighbour) fail(batch []*lookup, err error) {
	for _, l := range batch {
		l.answered(reply{n, "", fmt.Errorf("neighbour %s: %w", n.id, err)})
	}
}
