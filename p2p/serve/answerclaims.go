package serve

import (
	"bufio"
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"narbor/p2p/wire"
	"narbor/store"
)

// claimsAtOnce is the number of claims that are made before they are sent, on as many processors as there are: a
// signature takes some 50 µs to verify, and the asker verifies the first while the next are made.
const claimsAtOnce = 32

// sharedClaims makes several claims at once.
func (srv *Server) sharedClaims(parts []store.HashPart, claim func(store.HashPart) (sharedClaim, error)) []sharedClaim {
	out := make([]sharedClaim, len(parts))
	var next atomic.Int64
	work := func() {
		for i := int(next.Add(1)) - 1; i < len(parts); i = int(next.Add(1)) - 1 {
			c, err := claim(parts[i])
			srv.noteHealth(parts[i], err)
			out[i] = c
		}
	}
	var helpers sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(parts)/4) - 1 {
		helpers.Go(work)
	}
	work()
	helpers.Wait()
	return out
}

// noteHealth logs read errors of shared paths, once in a while: neighbours ask for thousands of paths.
func (srv *Server) noteHealth(hp store.HashPart, err error) {
	if err == nil || errors.Is(err, store.ErrNotFound) || errors.Is(err, context.Canceled) {
		return
	}
	last, now := srv.warned.Load(), time.Now().UnixNano()
	if now-last > int64(time.Minute) && srv.warned.CompareAndSwap(last, now) {
		srv.cfg.Log.Warn("cannot read what a neighbour asks for", zap.String("hashPart", string(hp)), zap.Error(err))
	}
}

// answers is where the answers on a stream go, and what has been told there.
type answers struct {
	*bufio.Writer
	told *toldParts
}

// toldParts are the hash parts that were told on a stream, so that none is told again unasked.
type toldParts struct {
	since time.Time
	parts map[store.HashPart]bool
}

// add notes that a hash part is told now, and says whether that was news.
func (t *toldParts) add(hp store.HashPart) bool {
	if len(t.parts) >= maxToldParts || time.Since(t.since) > toldFor {
		t.since, t.parts = time.Now(), map[store.HashPart]bool{}
	}
	news := !t.parts[hp]
	t.parts[hp] = true
	return news
}

func (srv *Server) answerClaims(ctx context.Context, c Client, w answers, r wire.Request) error {
	var buf []byte
	var refs []store.Path
	ask := func(hp store.HashPart) (sharedClaim, error) { return srv.claimTo(ctx, c, hp) }
	for part := range slices.Chunk(r.HashParts, claimsAtOnce) {
		buf = buf[:0]
		made := srv.sharedClaims(part, ask)
		if err := ctx.Err(); err != nil { // they were not looked up, and so are not answered
			return err
		}
		for i, claim := range made {
			buf = wire.AppendClaim(buf, claim.text, claim.receiving)
			if claim.text == "" {
				continue
			}
			c.tally.ClaimsSent.Add(1)
			srv.counts.asked(claim.kind)
			w.told.add(part[i])
			if len(refs) < wire.MaxFurther {
				refs = append(refs, claim.refs...)
			}
		}
		if _, err := w.Write(buf); err != nil {
			return err
		}
	}
	if err := srv.tellFurther(ctx, c, w, refs); err != nil {
		return err
	}
	return w.WriteByte(0)
}

// tellFurther tells of what the asker is likely to ask next, breadth first as Nix does: the references of what it has
// been told, and theirs. That is no more than it could ask about, for it knows the references of a claim.
func (srv *Server) tellFurther(ctx context.Context, c Client, w answers, refs []store.Path) error {
	add := func(hp store.HashPart) (sharedClaim, error) { return srv.sharedClaim(ctx, hp) }
	for left, room := wire.MaxFurther, wire.MaxFurtherLen; ; {
		var part []store.HashPart
		for ; len(refs) > 0 && len(part) < min(left, claimsAtOnce); refs = refs[1:] {
			if hp := refs[0].HashPart(); w.told.add(hp) {
				part = append(part, hp)
			}
		}
		if len(part) == 0 {
			return nil
		}
		left -= len(part)
		if err := w.Flush(); err != nil { // the asker waits for these
			return err
		}
		for i, claim := range srv.sharedClaims(part, add) {
			if claim.text == "" || claim.receiving || len(claim.text) > room {
				continue
			}
			room -= len(claim.text)
			c.tally.ClaimsSent.Add(1)
			if err := wire.WriteFurther(w.Writer, part[i], claim.text); err != nil {
				return err
			}
			if len(refs) < wire.MaxFurther {
				refs = append(refs, claim.refs...)
			}
		}
	}
}
