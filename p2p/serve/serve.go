package serve

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"go.uber.org/zap"

	"narbor/p2p/peers"
	"narbor/p2p/wire"
)

// errGone is what a stream is reset with when a NAR can no longer be read in the middle of an answer.
const errGone network.StreamErrorCode = 0x2001

// Serve answers the requests on a stream that a neighbour opened, one after the other, until it ends.
func (srv *Server) Serve(ctx context.Context, s network.Stream) {
	stop := context.AfterFunc(ctx, func() { s.Reset() })
	defer stop()
	br := bufio.NewReader(s)
	bw := bufio.NewWriterSize(stallWriter{s, srv.sending}, 4<<10)
	if !srv.cfg.Admits(s.Conn().RemotePeer()) {
		s.ResetWithError(peers.ErrOutsider)
		return
	}
	done, ok := srv.streams.try(askerOn(s.Conn()))
	if !ok {
		s.ResetWithError(network.StreamResourceLimitExceeded)
		return
	}
	defer done()
	c := srv.ClientOn(s.Conn())
	var told toldParts
	for {
		r, err := wire.ReadRequest(br)
		if err == nil {
			err = srv.answer(ctx, c, answers{bw, &told}, r)
		}
		if err == nil && (br.Buffered() == 0 || r.Kind == wire.AskClaims) {
			err = bw.Flush() // otherwise together with the next answer; claims are waited for
		}
		switch {
		case err == nil:
			continue
		case errors.Is(err, wire.ErrWire):
			srv.cfg.Ledger.CountRefused(err)
			srv.cfg.Ledger.Strike(s.Conn().RemotePeer(), err)
			s.ResetWithError(network.StreamProtocolViolation)
		case err == io.EOF:
			s.Close()
		default:
			srv.cfg.Log.Debug("stopped serving a neighbour", zap.Stringer("peer", s.Conn().RemotePeer()), zap.Error(err))
			s.ResetWithError(errGone)
		}
		return
	}
}

func (srv *Server) answer(ctx context.Context, c Client, w answers, r wire.Request) error {
	// The budget comes first: without one, neither the answer nor its time depends on the paths that are here or on
	// their way.
	may := !srv.off.Load() && (r.Kind == wire.AskClaims || srv.spendMiss(c, r.HashParts[0], reserveOf(r.Kind)))
	if p := srv.Partial(r); may && p != nil && r.Kind == wire.AskBlock {
		if err := w.Flush(); err != nil { // earlier answers do not wait with it
			return err
		}
		p.Await(ctx, r.Block)
	}
	turns := srv.sending
	switch r.Kind {
	case wire.AskClaims, wire.AskOffer:
		turns = srv.asking
	case wire.AskFile: // which may wait for a scan of the names
		turns = srv.filing
	case wire.AskUpstream, wire.AskFetch:
		turns = srv.proxying
	}
	done, err := turns.take(ctx, c.Asker())
	if err != nil {
		return err
	}
	defer done()
	if srv.off.Load() || !may {
		return refuse(w.Writer, r)
	}
	if err := srv.answerKind(ctx, c, w, r); err != nil {
		return err
	}
	return ctx.Err() // a node that is being stopped may not have looked up what it answers "not here" to
}

func (srv *Server) answerKind(ctx context.Context, c Client, w answers, r wire.Request) error {
	switch r.Kind {
	case wire.AskClaims:
		ctx, cancel := context.WithTimeout(ctx, shareTimeout)
		defer cancel()
		return srv.answerClaims(ctx, c, w, r)
	case wire.AskManifest:
		return srv.answerManifest(ctx, c, w.Writer, r)
	case wire.AskHave:
		return srv.answerHave(ctx, c, w.Writer, r)
	case wire.AskUpstream:
		return srv.cfg.Proxy.AnswerUpstream(ctx, c, w.Writer, r)
	case wire.AskFetch:
		return srv.cfg.Proxy.AnswerFetch(ctx, c, w.Writer, r)
	case wire.AskWrong:
		return srv.answerWrong(ctx, c, w.Writer, r)
	case wire.AskOffer:
		return srv.answerOffer(ctx, c, w.Writer, r)
	case wire.AskFile:
		return srv.answerFile(ctx, c, w.Writer, r)
	}
	return srv.answerBlock(ctx, c, w.Writer, r)
}

func (srv *Server) answerHave(ctx context.Context, c Client, bw *bufio.Writer, r wire.Request) error {
	have, err := srv.have(ctx, r)
	if err != nil {
		srv.noteHealth(r.HashParts[0], err)
		return bw.WriteByte(0)
	}
	c.quota.found()
	_, err = bw.Write(append(binary.AppendUvarint(nil, uint64(len(have))), have...))
	return err
}

func (srv *Server) answerBlock(ctx context.Context, c Client, bw *bufio.Writer, r wire.Request) error {
	b, err := srv.prepare(ctx, c, r)
	if errors.Is(err, wire.ErrLater) {
		return bw.WriteByte(byte(wire.ErrLater))
	}
	if err != nil {
		srv.noteHealth(r.HashParts[0], err)
		srv.suspect(ctx, r.HashParts[0], err)
		return bw.WriteByte(0)
	}
	defer b.Free()
	srv.cfg.Links.Admit(ctx, c.conn, b.Size())
	return b.Write(bw)
}

// prepare reads a block and packs it, when it is the asker's turn, and returns when it may be sent. So the turns also
// apply to the wait for the upload limit.
func (srv *Server) prepare(ctx context.Context, c Client, r wire.Request) (*wire.Block, error) {
	done, err := srv.reading.take(ctx, c.Asker())
	if err != nil {
		return nil, err
	}
	defer done()
	b := wire.NewBlock()
	size, unverified, err := srv.readBlock(ctx, r, b.Room())
	if err == nil || errors.Is(err, wire.ErrLater) {
		c.quota.found()
	}
	if err != nil {
		b.Free()
		return nil, err
	}
	b.Pack(size, srv.cfg.Links.Pace(c.conn), srv.processors.Spare, unverified)
	if unverified {
		c.tally.BlocksRelayed.Add(1)
	}
	if err := srv.rate.WaitN(ctx, b.Size()); err != nil {
		b.Free()
		return nil, err
	}
	c.tally.BlocksSent.Add(1)
	c.tally.BytesSent.Add(int64(size))
	c.tally.WireSent.Add(int64(b.Size()))
	if path, narSize := srv.sentOf(r, size); !path.IsZero() {
		srv.cfg.Sent(path, narSize, c.conn.RemotePeer().String(), size)
	}
	return b, nil
}

// answerManifest takes a turn for each block: to hash a large NAR takes a while.
func (srv *Server) answerManifest(ctx context.Context, c Client, bw *bufio.Writer, r wire.Request) error {
	started := false
	done, err := srv.reading.take(ctx, c.Asker())
	if err != nil {
		return err
	}
	defer func() { done() }()
	err = srv.manifest(ctx, r, func(blocks int) error {
		started = true
		c.quota.found()
		_, err := bw.Write(binary.AppendUvarint(nil, uint64(blocks)))
		return err
	}, func(digests []byte) error {
		done() // a slow reader does not keep the turn
		_, err := bw.Write(digests)
		if err == nil {
			done, err = srv.reading.take(ctx, c.Asker())
		}
		if err != nil {
			done = func() {}
		}
		return err
	})
	if err != nil && !started {
		return bw.WriteByte(0)
	}
	return err
}

// A stallWriter gives each write its own deadline, so that a slow reader is served and a dead one is not.
type stallWriter struct {
	s     network.Stream
	turns *turns // of which it has one
}

func (w stallWriter) Write(p []byte) (int, error) {
	stall := serveStall
	if w.turns.held() > maxServing/2 {
		stall = scarceStall
	}
	if err := w.s.SetWriteDeadline(time.Now().Add(stall)); err != nil {
		return 0, err
	}
	return w.s.Write(p)
}
