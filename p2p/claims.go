package p2p

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"narbor/p2p/wire"
	"narbor/store"
)

// A question is about a hash part, and asked of several neighbours. Its methods may be called concurrently.
type question interface {
	HashPart() store.HashPart
	// Awaits reports whether a neighbour's answer is still waited for.
	Awaits(*neighbour) bool
	// Recall returns what a neighbour has said unasked, if that is an answer.
	Recall(*neighbour) (reply, bool)
	// Lost records that a stream to a neighbour has ended without an answer. It reports whether the question is to be asked
	// on another stream.
	Lost(*neighbour) bool
	// Answer takes in a neighbour's answer.
	Answer(reply)
}

// A reply is a neighbour's answer about a hash part.
type reply struct {
	from      *neighbour
	text      string // of a narinfo that was not checked; "" is "not here"
	receiving bool   // it still receives the NAR
	err       error
}

// A toldClaim is a claim that was not asked for. It is verified when a lookup needs it.
type toldClaim struct {
	text string
	at   time.Time
}

func newTold() *lru.Cache[store.HashPart, toldClaim] {
	told := newMemory[store.HashPart, toldClaim](maxTold)
	return told
}

// hear keeps a claim that was not asked for, unless it is long: those are few, and can be asked for.
func (n *neighbour) hear(hp store.HashPart, text string) {
	if len(text) <= maxToldLen {
		n.told.Add(hp, toldClaim{text, time.Now()})
	}
}

// recall answers with what the neighbour has said unasked a moment ago, and forgets it: the next time it is asked.
func (n *neighbour) recall(hp store.HashPart) (text string, ok bool) {
	c, ok := n.told.Peek(hp)
	if !ok {
		return "", false
	}
	n.told.Remove(hp)
	return c.text, time.Since(c.at) < toldFresh
}

// isLate reports whether the neighbour has been silent for so long that lookups should not wait for it.
func (n *neighbour) isLate() bool {
	since := n.late.Load()
	return since != 0 && time.Now().UnixNano()-since > int64(lateAfter)
}

// askLoop sends questions about claims and hands out the answers, until the neighbour is gone.
func (n *neighbour) askLoop(ctx context.Context) {
	var batch []question
	for {
		if batch == nil {
			select {
			case l := <-n.asks:
				batch = []question{l}
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
func (n *neighbour) askOn(ctx context.Context, batch []question) (left []question) {
	ex, err := n.open(ctx, askTimeout)
	if err != nil {
		n.fail(batch, err)
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { ex.Reset() })
	defer stop()

	c := claimStream{neighbour: n, ex: ex, turns: make(chan struct{}, maxAsked), sent: make(chan []question, maxAsked)}
	var unanswered []question // owned by the reader until it has ended
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
	*neighbour
	ex    *exchange
	turns chan struct{}   // one for each request under way
	sent  chan []question // read by the reader of the answers; it has room for the holder of a turn
}

// askAll asks a batch, and all that comes after it, until ctx ends: because the stream has, or the node. It returns the
// questions that it has taken and not asked.
func (c claimStream) askAll(ctx context.Context, batch []question) (left []question) {
	for {
		select {
		case c.turns <- struct{}{}:
		case <-ctx.Done():
			return batch
		}
		if batch = c.more(batch); len(batch) == 0 {
			<-c.turns
		} else if err := c.ex.ask(batch); err != nil {
			return c.again(batch, err)
		} else {
			c.sent <- batch
		}
		select {
		case l := <-c.asks:
			batch = []question{l}
		case <-c.done:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// again returns those questions of a batch that are to be asked on another stream, because an error has ended this one
// before they were answered. The error is the answer to the others.
func (n *neighbour) again(batch []question, err error) (rest []question) {
	for _, l := range batch {
		if l.Lost(n) {
			rest = append(rest, l)
		} else {
			n.fail([]question{l}, err)
		}
	}
	return rest
}

// ask sends a batch of questions in one request.
func (ex *exchange) ask(batch []question) error {
	r := wire.Request{Kind: wire.AskClaims, HashParts: make([]store.HashPart, len(batch))}
	for i, l := range batch {
		r.HashParts[i] = l.HashPart()
	}
	return ex.send(r)
}

// more adds the questions that are waiting or about to be: often several goroutines ask at once. It leaves out those
// that have been answered before they were asked.
func (n *neighbour) more(batch []question) []question {
	runtime.Gosched()
	batch = slices.DeleteFunc(batch, n.answeredUnasked)
	for len(batch) < wire.MaxClaims {
		select {
		case l := <-n.asks:
			if !n.answeredUnasked(l) {
				batch = append(batch, l)
			}
		default:
			return batch
		}
	}
	return batch
}

// answeredUnasked reports whether a question need not be asked any more, because of an unasked claim or because no
// caller waits for the answer.
func (n *neighbour) answeredUnasked(l question) bool {
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
func (ex *exchange) readClaims(n *neighbour, batch []question) (rest []question, ok bool) {
	ex.until = time.Now().Add(claimsTimeout)
	for i, l := range batch {
		text, receiving, err := wire.ReadClaim(ex.br)
		n.late.Store(0) // it has answered, or is asked on a new stream from now on and deserves a new chance
		if err != nil {
			n.broke(ex, err)
			if again := !errors.Is(err, wire.ErrWire); again {
				return n.again(batch[i:], err), false
			}
			n.fail(batch[i:i+1], err) // it would be answered so again
			return n.again(batch[i+1:], err), false
		}
		l.Answer(reply{from: n, text: text, receiving: receiving})
	}
	if err := wire.ReadFurther(ex.br, n.hear); err != nil {
		n.broke(ex, err)
		return nil, false
	}
	return nil, true
}

// broke ends a stream that is of no more use, and strikes the neighbour if it broke the wire format.
func (n *neighbour) broke(ex *exchange, err error) {
	ex.Reset()
	if errors.Is(err, wire.ErrWire) {
		n.ledger.refuse(refusedFormat)
		n.ledger.strike(n.id, err)
	}
}

func (n *neighbour) fail(batch []question, err error) {
	for _, l := range batch {
		l.Answer(reply{from: n, err: fmt.Errorf("neighbour %s: %w", n.id, err)})
	}
}
