package serve

import (
	"bufio"
	"context"
	"errors"

	"narbor/p2p/peers"
	"narbor/p2p/wire"
	"narbor/store"
	"narbor/trust"
)

// errFilesSpent is why the names of all paths are not read for a peer.
var errFilesSpent = errors.New("too many questions for files")

// answerFile answers with a path that others may have and that is the file asked for. It has the same cost as a
// question about a path: a miss, unless the file is found, or was not looked for.
func (srv *Server) answerFile(ctx context.Context, c Client, bw *bufio.Writer, r wire.Request) error {
	ctx, cancel := context.WithTimeout(ctx, shareTimeout)
	defer cancel()
	claim := ""
	if srv.cfg.Called != nil {
		text, err := srv.fileClaim(ctx, c, r.File)
		if err == nil || !errors.Is(err, store.ErrNotFound) { // a store that cannot be read is not the peer's fault
			c.quota.found()
		}
		claim = text
	}
	_, err := bw.Write(wire.AppendClaim(nil, claim, false))
	return err
}

// spendFile takes one reading of the names of all paths from the quotas of a peer, its machine and all. It returns
// false if one of them has none left.
func (srv *Server) spendFile(c Client) bool {
	if !c.quota.files.Allow() {
		return false
	}
	if there := c.quota.machine.Load(); there != nil && !there.files.Allow() {
		return false
	}
	return srv.quotas.files.Allow()
}

// fileClaim returns the claim of a path that is a file and may be told. The error wraps [store.ErrNotFound] if there is
// none.
func (srv *Server) fileClaim(ctx context.Context, c Client, f trust.File) (string, error) {
	if !srv.spendFile(c) {
		return "", errFilesSpent
	}
	parts, err := srv.called(ctx, c.Asker(), f)
	if err != nil {
		return "", err
	}
	for _, hp := range parts {
		found, err := srv.claim(ctx, hp)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			srv.noteHealth(hp, err)
			return "", err
		}
		if staysHere(err) {
			srv.counts.asked(trust.KindKept)
		}
		if err != nil || found.src == srv.arriving {
			continue
		}
		c.tally.ClaimsSent.Add(1)
		srv.counts.asked(found.kind)
		return store.Info{Path: found.m.Path(), NarHash: found.m.NarHash(), NarSize: found.m.NarSize(), CA: f.String()}.String(), nil
	}
	return "", store.ErrNotFound
}

// called reads the names of all paths when it is the asker's turn, and returns the paths that may be the file. The turn
// ends before the answer is sent, so that slow readers do not keep it.
func (srv *Server) called(ctx context.Context, asker Asker, f trust.File) ([]store.HashPart, error) {
	waiting, cancel := context.WithTimeout(ctx, peers.BusyTimeout) // then the asker has gone on without the answer
	defer cancel()
	done, err := srv.naming.take(waiting, asker)
	if err != nil {
		return nil, err
	}
	defer done()
	parts, err := srv.cfg.Called(ctx, f.PathCalled)
	srv.noteHealth(f.PathCalled(""), err)
	return parts, err
}
