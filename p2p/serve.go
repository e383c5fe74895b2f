package p2p

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/klauspost/compress/s2"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"narbor/store"
)

const (
	// blockHead is what precedes the bytes of a block in an answer: its status and its length.
	blockHead = 1 + binary.MaxVarintLen32
)

// errGone is what a stream is reset with when a NAR can no longer be read in the middle of an answer.
const errGone network.StreamErrorCode = 0x2001

// blockBuffers holds buffers for one block, packed in whatever way, and what precedes it on the wire.
var blockBuffers = sync.Pool{New: func() any {
	b := make([]byte, blockHead+max(store.BlockSize, s2.MaxEncodedLen(store.BlockSize)))
	return &b
}}

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
	t := n.tallyOf(s.Conn().RemotePeer())
	n.asks(t, s.Conn())
	for {
		r, err := readRequest(br)
		if err == nil {
			err = n.answer(ctx, s.Conn(), t, answers{bw, &told}, r)
		}
		if err == nil && (br.Buffered() == 0 || r.kind == askClaims) {
			err = bw.Flush() // otherwise together with the next answer; claims are waited for
		}
		switch {
		case err == nil:
			continue
		case errors.Is(err, errWire):
			n.counts.refuse(refusedFormat)
			n.strike(s.Conn().RemotePeer(), err)
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

func (n *Node) answer(ctx context.Context, conn network.Conn, t *tally, w answers, r request) error {
	// The budget comes first: without one, neither the answer nor its time depends on the paths that are here or on their way.
	may := !n.sharer.off.Load() && (r.kind == askClaims || n.mayLook(t, r.hashParts[0], 0))
	if f := n.sharer.flight(r); may && f != nil && r.kind == askBlock {
		if err := w.Flush(); err != nil { // earlier answers do not wait with it
			return err
		}
		f.await(ctx, r.block)
	}
	turns := n.sending
	switch r.kind {
	case askClaims:
		turns = n.asking
	case askUpstream, askFetch:
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

func (n *Node) answerKind(ctx context.Context, conn network.Conn, t *tally, w answers, r request) error {
	switch r.kind {
	case askClaims:
		ctx, cancel := context.WithTimeout(ctx, shareTimeout)
		defer cancel()
		return n.answerClaims(ctx, t, w, r)
	case askManifest:
		return n.answerManifest(ctx, conn, t, w.Writer, r)
	case askHave:
		return n.answerHave(ctx, t, w.Writer, r)
	case askUpstream:
		return n.answerUpstream(ctx, t, w.Writer, r)
	case askFetch:
		return n.answerFetch(ctx, conn, t, w.Writer, r)
	case askWrong:
		return n.answerWrong(ctx, t, w.Writer, r)
	}
	return n.answerBlock(ctx, conn, t, w.Writer, r)
}

func askerOn(conn network.Conn) asker {
	addr, _ := ipOf(conn.RemoteMultiaddr())
	return asker{addr, conn.RemotePeer()}
}

// meet makes a peer that asks about a NAR a member of its swarm, if the NAR is being received here: the peer may be
// about to receive it, too. It comes after the budget, because a member is asked for blocks, and so hears of it.
func (n *Node) meet(id peer.ID, hp store.HashPart) {
	if f := n.fetched.flight(hp); f != nil {
		f.meetPeer(id)
	}
}

func (n *Node) answerHave(ctx context.Context, t *tally, bw *bufio.Writer, r request) error {
	have, err := n.sharer.have(ctx, r)
	if err != nil {
		n.noteHealth(r.hashParts[0], err)
		return bw.WriteByte(0)
	}
	t.probing.found()
	_, err = bw.Write(append(binary.AppendUvarint(nil, uint64(len(have))), have...))
	return err
}

func (n *Node) answerBlock(ctx context.Context, conn network.Conn, t *tally, bw *bufio.Writer, r request) error {
	b, err := n.prepare(ctx, conn, t, r)
	if errors.Is(err, errLater) {
		return bw.WriteByte(byte(statusLater))
	}
	if err != nil {
		n.noteHealth(r.hashParts[0], err)
		n.sharer.suspect(ctx, r.hashParts[0], err)
		return bw.WriteByte(byte(statusGone))
	}
	defer blockBuffers.Put(b.buf)
	n.lan.gate.paces.admit(ctx, conn, b.size)
	return writeBlock(bw, b)
}

// A readyBlock is size bytes as they go over the wire, from blockHead on in buf.
type readyBlock struct {
	as   status
	buf  *[]byte
	size int
}

// prepare reads a block and packs it, when it is the asker's turn, and returns when it may be sent. So the turns also
// apply to the wait for the upload limit.
func (n *Node) prepare(ctx context.Context, conn network.Conn, t *tally, r request) (readyBlock, error) {
	done, err := n.reading.take(ctx, askerOn(conn))
	if err != nil {
		return readyBlock{}, err
	}
	defer done()
	buf := blockBuffers.Get().(*[]byte)
	size, unverified, err := n.sharer.readBlock(ctx, r, (*buf)[blockHead:])
	if err == nil || errors.Is(err, errLater) {
		t.probing.found()
	}
	if err != nil {
		blockBuffers.Put(buf)
		return readyBlock{}, err
	}
	b := pickCodec(buf, size, codecFor(n.lan.gate.paces.of(conn)))
	if unverified {
		t.blocksRelayed.Add(1)
		b.as |= relayed
	}
	if err := n.rate.WaitN(ctx, b.size); err != nil {
		blockBuffers.Put(b.buf)
		return readyBlock{}, err
	}
	t.blocksSent.Add(1)
	t.bytesSent.Add(int64(size))
	t.wireSent.Add(int64(b.size))
	if path, narSize := n.sharer.named(r); !path.IsZero() {
		n.cfg.Observer.Sent(path, narSize, conn.RemotePeer().String(), size)
	}
	return b, nil
}

// pickCodec packs a block as it is to be packed, if that makes it smaller. It takes buf over.
func pickCodec(buf *[]byte, size int, as status) readyBlock {
	b := readyBlock{statusRaw, buf, size}
	if as == statusRaw {
		return b
	}
	other := blockBuffers.Get().(*[]byte)
	if packed, ok := pack(as, (*buf)[blockHead:blockHead+size], (*other)[blockHead:]); ok {
		b, other = readyBlock{as, other, len(packed)}, buf
	}
	blockBuffers.Put(other)
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

// writeBlock writes a block. What precedes it on the wire is put right before it, so that all leaves in one write.
func writeBlock(bw *bufio.Writer, b readyBlock) error {
	head := binary.AppendUvarint([]byte{byte(b.as)}, uint64(b.size))
	start := blockHead - len(head)
	copy((*b.buf)[start:], head)
	_, err := bw.Write((*b.buf)[start : blockHead+b.size])
	return err
}

// answerManifest takes a turn for each block: to hash a large NAR takes a while.
func (n *Node) answerManifest(ctx context.Context, conn network.Conn, t *tally, bw *bufio.Writer, r request) error {
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
