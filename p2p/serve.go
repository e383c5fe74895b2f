package p2p

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"narbor/p2p/netmon"
	"narbor/p2p/wire"
	"narbor/store"
)

// errGone is what a stream is reset with when a NAR can no longer be read in the middle of an answer.
const errGone network.StreamErrorCode = 0x2001

// serve answers the requests on a stream that a neighbour opened, one after the other, until it ends.
func (n *Node) serve(ctx context.Context, s network.Stream) {
	stop := context.AfterFunc(ctx, func() { s.Reset() })
	defer stop()
	br := bufio.NewReader(s)
	bw := bufio.NewWriterSize(stallWriter{s, n.sending}, 4<<10)
	if !n.group.has(s.Conn().RemotePeer()) {
		s.ResetWithError(errOutsider)
		return
	}
	done, ok := n.streams.try(askerOn(s.Conn()))
	if !ok {
		s.ResetWithError(network.StreamResourceLimitExceeded)
		return
	}
	defer done()
	var told toldParts
	t := n.ledger.tallyOf(s.Conn().RemotePeer())
	n.asks(t, s.Conn())
	for {
		r, err := wire.ReadRequest(br)
		if err == nil {
			err = n.answer(ctx, s.Conn(), t, answers{bw, &told}, r)
		}
		if err == nil && (br.Buffered() == 0 || r.Kind == wire.AskClaims) {
			err = bw.Flush() // otherwise together with the next answer; claims are waited for
		}
		switch {
		case err == nil:
			continue
		case errors.Is(err, wire.ErrWire):
			n.ledger.refuse(refusedFormat)
			n.ledger.strike(s.Conn().RemotePeer(), err)
			s.ResetWithError(network.StreamProtocolViolation)
		case err == io.EOF:
			s.Close()
		default:
			n.log.Debug("stopped serving a neighbour", zap.Stringer("peer", s.Conn().RemotePeer()), zap.Error(err))
			s.ResetWithError(errGone)
		}
		return
	}
}

func (n *Node) answer(ctx context.Context, conn network.Conn, t *tally, w answers, r wire.Request) error {
	// The budget comes first: without one, neither the answer nor its time depends on the paths that are here or on their way.
	may := !n.sharer.off.Load() && (r.Kind == wire.AskClaims || n.mayLook(t, r.HashParts[0], 0))
	if p := n.sharer.partial(r); may && p != nil && r.Kind == wire.AskBlock {
		if err := w.Flush(); err != nil { // earlier answers do not wait with it
			return err
		}
		p.Await(ctx, r.Block)
	}
	turns := n.sending
	switch r.Kind {
	case wire.AskClaims:
		turns = n.asking
	case wire.AskUpstream, wire.AskFetch:
		turns = n.helping
	}
	done, err := turns.take(ctx, askerOn(conn))
	if err != nil {
		return err
	}
	defer done()
	if n.sharer.off.Load() || !may {
		return refuse(w.Writer, r)
	}
	if err := n.answerKind(ctx, conn, t, w, r); err != nil {
		return err
	}
	return ctx.Err() // a node that is being stopped may not have looked up what it answers "not here" to
}

func (n *Node) answerKind(ctx context.Context, conn network.Conn, t *tally, w answers, r wire.Request) error {
	switch r.Kind {
	case wire.AskClaims:
		ctx, cancel := context.WithTimeout(ctx, shareTimeout)
		defer cancel()
		return n.answerClaims(ctx, t, w, r)
	case wire.AskManifest:
		return n.answerManifest(ctx, conn, t, w.Writer, r)
	case wire.AskHave:
		return n.answerHave(ctx, t, w.Writer, r)
	case wire.AskUpstream:
		return n.answerUpstream(ctx, t, w.Writer, r)
	case wire.AskFetch:
		return n.answerFetch(ctx, conn, t, w.Writer, r)
	case wire.AskWrong:
		return n.answerWrong(ctx, t, w.Writer, r)
	}
	return n.answerBlock(ctx, conn, t, w.Writer, r)
}

func askerOn(conn network.Conn) asker {
	addr, _ := netmon.IPOf(conn.RemoteMultiaddr())
	return asker{addr, conn.RemotePeer()}
}

// meet makes a peer that asks about a NAR a member of its swarm, if the NAR is being received here: the peer may be
// about to receive it, too. It comes after the budget, because a member is asked for blocks, and so hears of it.
func (n *Node) meet(id peer.ID, hp store.HashPart) {
	if f := n.fetched.flight(hp); f != nil {
		n.meetOn(f, id)
	}
}

func (n *Node) answerHave(ctx context.Context, t *tally, bw *bufio.Writer, r wire.Request) error {
	have, err := n.sharer.have(ctx, r)
	if err != nil {
		n.noteHealth(r.HashParts[0], err)
		return bw.WriteByte(0)
	}
	t.probing.found()
	_, err = bw.Write(append(binary.AppendUvarint(nil, uint64(len(have))), have...))
	return err
}

func (n *Node) answerBlock(ctx context.Context, conn network.Conn, t *tally, bw *bufio.Writer, r wire.Request) error {
	b, err := n.prepare(ctx, conn, t, r)
	if errors.Is(err, wire.ErrLater) {
		return bw.WriteByte(byte(wire.StatusLater))
	}
	if err != nil {
		n.noteHealth(r.HashParts[0], err)
		n.sharer.suspect(ctx, r.HashParts[0], err)
		return bw.WriteByte(byte(wire.StatusGone))
	}
	defer wire.BlockBuffers.Put(b.Buf)
	n.lan.gate.admit(ctx, conn, b.Size)
	return wire.WriteBlock(bw, b)
}

// prepare reads a block and packs it, when it is the asker's turn, and returns when it may be sent. So the turns also
// apply to the wait for the upload limit.
func (n *Node) prepare(ctx context.Context, conn network.Conn, t *tally, r wire.Request) (wire.Packed, error) {
	done, err := n.reading.take(ctx, askerOn(conn))
	if err != nil {
		return wire.Packed{}, err
	}
	defer done()
	buf := wire.BlockBuffers.Get().(*[]byte)
	size, unverified, err := n.sharer.readBlock(ctx, r, (*buf)[wire.BlockHead:])
	if err == nil || errors.Is(err, wire.ErrLater) {
		t.probing.found()
	}
	if err != nil {
		wire.BlockBuffers.Put(buf)
		return wire.Packed{}, err
	}
	b := pickCodec(buf, size, wire.CodecFor(n.lan.gate.pace(conn)))
	if unverified {
		t.blocksRelayed.Add(1)
		b.As |= wire.Relayed
	}
	if err := n.rate.WaitN(ctx, b.Size); err != nil {
		wire.BlockBuffers.Put(b.Buf)
		return wire.Packed{}, err
	}
	t.blocksSent.Add(1)
	t.bytesSent.Add(int64(size))
	t.wireSent.Add(int64(b.Size))
	if path, narSize := n.sharer.named(r); !path.IsZero() {
		n.cfg.Observer.Sent(path, narSize, conn.RemotePeer().String(), size)
	}
	return b, nil
}

// pickCodec packs a block as it is to be packed, if that makes it smaller. It takes buf over.
func pickCodec(buf *[]byte, size int, as wire.Status) wire.Packed {
	b := wire.Packed{As: wire.StatusRaw, Buf: buf, Size: size}
	if as == wire.StatusRaw {
		return b
	}
	other := wire.BlockBuffers.Get().(*[]byte)
	if packed, ok := wire.Pack(as, (*buf)[wire.BlockHead:wire.BlockHead+size], (*other)[wire.BlockHead:]); ok {
		b, other = wire.Packed{As: as, Buf: other, Size: len(packed)}, buf
	}
	wire.BlockBuffers.Put(other)
	return b
}

// noteHealth logs read errors of shared paths, once in a while: neighbours ask for thousands of paths.
func (n *Node) noteHealth(hp store.HashPart, err error) {
	if err == nil || errors.Is(err, store.ErrNotFound) || errors.Is(err, context.Canceled) {
		return
	}
	last, now := n.sharer.warned.Load(), time.Now().UnixNano()
	if now-last > int64(time.Minute) && n.sharer.warned.CompareAndSwap(last, now) {
		n.log.Warn("cannot read what a neighbour asks for", zap.String("hashPart", string(hp)), zap.Error(err))
	}
}

// answerManifest takes a turn for each block: to hash a large NAR takes a while.
func (n *Node) answerManifest(ctx context.Context, conn network.Conn, t *tally, bw *bufio.Writer, r wire.Request) error {
	started := false
	done, err := n.reading.take(ctx, askerOn(conn))
	if err != nil {
		return err
	}
	defer func() { done() }()
	err = n.sharer.manifest(ctx, r, func(blocks int) error {
		started = true
		t.probing.found()
		_, err := bw.Write(binary.AppendUvarint(nil, uint64(blocks)))
		return err
	}, func(digests []byte) error {
		done() // a slow reader does not keep the turn
		_, err := bw.Write(digests)
		if err == nil {
			done, err = n.reading.take(ctx, askerOn(conn))
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
