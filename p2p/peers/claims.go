package peers

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"narbor/p2p/wire"
	"narbor/store"
)

// keepPushed keeps a claim that was not asked for, unless it is long: those are few, and can be asked for.
func (n *Neighbour) keepPushed(hp store.HashPart, text string) {
	if len(text) <= maxPushedLen {
		n.pushed.Add(hp, pushedClaim{text, time.Now()})
	}
}

// Recall answers with a claim that the neighbour has pushed a moment ago, and forgets it: the next time it is
// asked.
func (n *Neighbour) Recall(hp store.HashPart) (text string, ok bool) {
	c, ok := n.pushed.Peek(hp)
	if !ok {
		return "", false
	}
	n.pushed.Remove(hp)
	return c.text, time.Since(c.at) < pushedFresh
}

// IsLate reports whether the neighbour has been silent for so long that lookups should not wait for it.
func (n *Neighbour) IsLate() bool {
	since := n.Late.Load()
	return since != 0 && time.Now().UnixNano()-since > int64(lateAfter)
}

// AskLoop sends questions about claims and hands out the answers, until the neighbour is gone.
func (n *Neighbour) AskLoop(ctx context.Context) {
	var batch []Question
	for {
		if batch == nil {
			select {
			case l := <-n.Asks:
				batch = []Question{l}
			case <-n.done:
				return
			case <-ctx.Done():
				return
			}
		}
		batch = n.askOn(ctx, batch)
	}
}

// askOn asks a batch first, and all that comes after it, on one stream until that fails. It returns the questions that
// are to be asked on the next stream: those that were not asked on this one, and those that its end left unanswered.
func (n *Neighbour) askOn(ctx context.Context, batch []Question) (left []Question) {
	ex, err := n.Open(ctx, AskTimeout)
	if err != nil {
		n.fail(batch, err)
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { ex.Reset() })
	defer stop()

	c := claimStream{Neighbour: n, ex: ex, turns: make(chan struct{}, maxAsked), sent: make(chan []Question, maxAsked)}
	var unanswered []Question // owned by the reader until it has ended
	var reader sync.WaitGroup
	reader.Go(func() {
		for batch := range c.sent {
			rest, ok := ex.readClaims(n, batch)
			if unanswered = append(unanswered, rest...); !ok {
				cancel()
			}
			<-c.turns
		}
	})
	left = c.askAll(ctx, batch)
	close(c.sent)
	reader.Wait()
	return append(unanswered, left...)
}

// A claimStream is a stream on which claims are asked for.
type claimStream struct {
	*Neighbour
	ex    *Exchange
	turns chan struct{}   // one for each request under way
	sent  chan []Question // read by the reader of the answers; it has room for the holder of a turn
}

// askAll asks a batch, and all that comes after it, until ctx ends: because the stream has, or the node. It returns the
// questions that it has taken and not asked.
func (c claimStream) askAll(ctx context.Context, batch []Question) (left []Question) {
	for {
		select {
		case c.turns <- struct{}{}:
		case <-ctx.Done():
			return batch
		}
		if batch = c.more(batch); len(batch) == 0 {
			<-c.turns
		} else if err := c.ex.Send(claimsRequest(batch)); err != nil {
			return c.again(batch, err)
		} else {
			c.sent <- batch
		}
		select {
		case l := <-c.Asks:
			batch = []Question{l}
		case <-c.done:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// again returns those questions of a batch that are to be asked on another stream, because an error has ended this one
// before they were answered. The error is the answer to the others.
func (n *Neighbour) again(batch []Question, err error) (rest []Question) {
	for _, l := range batch {
		if l.Lost(n) {
			rest = append(rest, l)
		} else {
			n.fail([]Question{l}, err)
		}
	}
	return rest
}

func claimsRequest(batch []Question) wire.Request {
	r := wire.Request{Kind: wire.AskClaims, HashParts: make([]store.HashPart, len(batch))}
	for i, l := range batch {
		r.HashParts[i] = l.HashPart()
	}
	return r
}

// more adds the questions that are waiting or about to be: often several goroutines ask at once. It leaves out those
// that have been answered before they were asked.
func (n *Neighbour) more(batch []Question) []Question {
	runtime.Gosched()
	batch = slices.DeleteFunc(batch, n.settleUnasked)
	for len(batch) < wire.MaxClaims {
		select {
		case l := <-n.Asks:
			if !n.settleUnasked(l) {
				batch = append(batch, l)
			}
		default:
			return batch
		}
	}
	return batch
}

// settleUnasked answers a question with a claim that was pushed, if there is one. It reports whether the question need
// not be asked any more: it is answered, or no caller waits for the answer.
func (n *Neighbour) settleUnasked(l Question) bool {
	if !l.Awaits(n) {
		return true
	}
	r, ok := l.Recall(n)
	if ok {
		l.Answer(r)
	}
	return ok
}

// readClaims answers the questions of a batch in order. If the stream fails meanwhile it returns those that are to be
// asked on another one, and false: the stream is of no more use.
func (ex *Exchange) readClaims(n *Neighbour, batch []Question) (rest []Question, ok bool) {
	ex.Until = time.Now().Add(claimsTimeout)
	for i, l := range batch {
		text, receiving, err := wire.ReadClaim(ex.Reader)
		n.Late.Store(0) // it has answered, or is asked on a new stream from now on and deserves a new chance
		if err != nil {
			n.broke(ex, err)
			if again := !errors.Is(err, wire.ErrWire); again {
				return n.again(batch[i:], err), false
			}
			n.fail(batch[i:i+1], err) // it would be answered so again
			return n.again(batch[i+1:], err), false
		}
		l.Answer(Reply{From: n, Text: text, Receiving: receiving})
	}
	if err := wire.ReadFurther(ex.Reader, n.keepPushed); err != nil {
		n.broke(ex, err)
		return nil, false
	}
	return nil, true
}

// broke ends a stream that is of no more use, and strikes the neighbour if it broke the wire format.
func (n *Neighbour) broke(ex *Exchange, err error) {
	ex.Reset()
	if errors.Is(err, wire.ErrWire) {
		n.ledger.CountRefused(err)
		n.ledger.Strike(n.ID, err)
	}
}

func (n *Neighbour) fail(batch []Question, err error) {
	for _, l := range batch {
		l.Answer(Reply{From: n, Err: fmt.Errorf("neighbour %s: %w", n.ID, err)})
	}
}
