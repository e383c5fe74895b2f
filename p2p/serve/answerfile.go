package serve

import (
	"bufio"
	"context"
	"errors"

	"narbor/p2p/wire"
	"narbor/store"
	"narbor/trust"
)

// answerFile answers with a path that others may have and that is the file asked for. It has the same cost as a question about a
// path: a miss, unless the file is found.
func (srv *Server) answerFile(ctx context.Context, c Client, bw *bufio.Writer, r wire.Request) error {
	ctx, cancel := context.WithTimeout(ctx, shareTimeout)
	defer cancel()
	claim := ""
	if srv.cfg.Called != nil && srv.mayAskFile(c) {
		claim = srv.fileClaim(ctx, c, r.File)
	}
	_, err := bw.Write(wire.AppendClaim(nil, claim, false))
	return err
}

// mayAskFile reports whether the names of all paths may be read for a peer once more.
func (srv *Server) mayAskFile(c Client) bool {
	if !c.quota.files.Allow() {
		return false
	}
	there := c.quota.machine.Load()
	return there == nil || there.files.Allow()
}

// fileClaim returns the claim of a path that is a file and may be told, or "".
func (srv *Server) fileClaim(ctx context.Context, c Client, f trust.File) string {
	parts, err := srv.cfg.Called(ctx, f.PathCalled)
	if err != nil {
		srv.noteHealth(f.PathCalled(""), err)
		if !errors.Is(err, store.ErrNotFound) { // a store that cannot be read is not the peer's fault
			c.quota.found()
		}
		return ""
	}
	for _, hp := range parts {
		found, err := srv.claim(ctx, hp)
		if staysHere(err) {
			srv.counts.asked(trust.KindKept)
		}
		if err != nil || found.src == srv.arriving {
			continue
		}
		c.quota.found()
		c.tally.ClaimsSent.Add(1)
		srv.counts.asked(found.kind)
		return store.Info{Path: found.m.Path(), NarHash: found.m.NarHash(), NarSize: found.m.NarSize(), CA: f.String()}.String()
	}
	return ""
}
