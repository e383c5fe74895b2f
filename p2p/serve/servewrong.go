package serve

import (
	"bufio"
	"context"

	"go.uber.org/zap"

	"narbor/p2p/wire"
	"narbor/store"
)

// answerWrong handles a report that a NAR of this machine is wrong. A shared NAR is checked, as long as the peer and
// all peers at its address do not report too often. The answer carries no information.
func (srv *Server) answerWrong(ctx context.Context, c Client, bw *bufio.Writer, r wire.Request) error {
	ctx, cancel := context.WithTimeout(ctx, shareTimeout)
	defer cancel()
	if srv.spendWrong(c) {
		if path, err := srv.claim(ctx, r.HashParts[0]); err == nil && path.m.NarHash() == r.NAR {
			c.quota.found()
			srv.cfg.Log.Info("neighbour says that a NAR of this machine is wrong, so it is checked", zap.Stringer("peer", c.tally.ID),
				zap.Stringer("path", path.m.Path()))
			store.Suspect(path.src, path.m.Info())
		}
	}
	return bw.WriteByte(0)
}

// spendWrong takes one check of a path from the quotas of a peer and its machine. It returns false if one of them has
// none left.
func (srv *Server) spendWrong(c Client) bool {
	if !c.quota.wrongTellings.Allow() {
		return false
	}
	there := c.quota.machine.Load()
	return there == nil || there.wrongTellings.Allow()
}
