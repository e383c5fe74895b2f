package ask

import (
	"bufio"
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"

	"narbor/p2p/peers"
	"narbor/p2p/wire"
	"narbor/store"
	"narbor/trust"
	"narbor/trust/trusttest"
)

// fileNamed makes the claim of a file.
func fileNamed(t testing.TB, name string) (claim string, f trust.File) {
	t.Helper()
	info, _, f := trusttest.FetchedFile(t, name, []byte(name))
	return info.String(), f
}

// A fileAnswer is what a neighbour answers to a question for a file, and after what time.
type fileAnswer struct {
	claim string
	after time.Duration
}

// A fileHost has neighbours that answer questions for files. Without an answer one is silent.
type fileHost struct {
	connectedHost
	answers map[peer.ID]*fileAnswer

	mu                    sync.Mutex // guards the rest
	asked, underWay, most int
}

func (h *fileHost) NewStream(_ context.Context, to peer.ID, _ ...protocol.ID) (network.Stream, error) {
	near, far := net.Pipe()
	go h.serve(far, to)
	return fileStream{end: near}, nil
}

// serve answers the question on a stream, and returns when the asker has closed it.
func (h *fileHost) serve(c net.Conn, as peer.ID) {
	defer c.Close()
	br := bufio.NewReader(c)
	if _, err := wire.ReadRequest(br); err != nil {
		return
	}
	h.count(1)
	if a := h.answers[as]; a != nil {
		defer time.AfterFunc(a.after, func() {
			h.count(-1)
			c.Write(wire.AppendClaim(nil, a.claim, false))
		}).Stop()
	}
	br.ReadByte()
}

func (h *fileHost) count(n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asked += max(n, 0)
	h.underWay += n
	h.most = max(h.most, h.underWay)
}

// questions returns how many questions neighbours have got since the last call.
func (h *fileHost) questions() (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n, h.asked = h.asked, 0
	return n
}

type fileStream struct {
	network.Stream
	end net.Conn
}

func (s fileStream) Read(b []byte) (int, error)         { return s.end.Read(b) }
func (s fileStream) Write(b []byte) (int, error)        { return s.end.Write(b) }
func (s fileStream) Reset() error                       { return s.end.Close() }
func (s fileStream) SetReadDeadline(t time.Time) error  { return s.end.SetReadDeadline(t) }
func (s fileStream) SetWriteDeadline(t time.Time) error { return s.end.SetWriteDeadline(t) }

// newAskingForFiles returns lookups with the neighbours that have answers.
func newAskingForFiles(s trusttest.Signer, answers map[peer.ID]*fileAnswer) (*Lookups, *fileHost) {
	ls, h := newTestLookups(s.Keys), &fileHost{answers: answers}
	for id := range answers {
		h.add(ls, id)
	}
	return ls, h
}

func (h *fileHost) add(ls *Lookups, id peer.ID) *peers.Neighbour {
	nb := peers.NewNeighbour(h, id, wire.ProtocolID, ls.Ledger)
	ls.Neighbours.Add(nb)
	return nb
}

func TestSilentNeighbourDelaysFilesLittle(t *testing.T) {
	s := trusttest.NewSigner(t)
	claim, f := fileNamed(t, "wanted")
	const quick = 20 * time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		ls, h := newAskingForFiles(s, map[peer.ID]*fileAnswer{"holder": {claim, quick}, "silent": nil})
		files := func() (took time.Duration, err error) {
			start := time.Now()
			_, err = ls.Files(t.Context(), f)
			return time.Since(start), err
		}
		if took, err := files(); took != quick+peers.InfoTimeout || err != nil {
			t.Errorf("with a holder it takes %s, %v, want %s", took, err, quick+peers.InfoTimeout)
		}
		ls.Neighbours.Remove("holder")
		var lost time.Duration
		const questions = 10
		for i := range questions {
			took, err := files()
			if !errors.Is(err, store.ErrNotFound) || i == 0 && took != peers.BusyTimeout {
				t.Errorf("question %d without a holder takes %s, %v, want ErrNotFound and at first %s", i, took, err, peers.BusyTimeout)
			}
			lost += took
		}
		if most := questions*filePatience + peers.MaxBusyWait; lost > most {
			t.Errorf("%d questions take %s, want at most %s", questions, lost, most)
		}
		dead := h.add(ls, "dead")
		dead.Answered(quick)
		ls.Neighbours.Remove("silent")
		for range 2 { // the first finds that it does not answer
			time.Sleep(time.Minute)
			files()
		}
		if took, _ := files(); took != 0 {
			t.Errorf("a neighbour that is known as dead is waited for: %s", took)
		}
	})
}

// Nix asks for a file with HEAD and with GET. A neighbour that has come since, or has not answered, may have the file.
func TestAnswersAboutFilesAreRemembered(t *testing.T) {
	s := trusttest.NewSigner(t)
	claim, f := fileNamed(t, "wanted")
	for name, a := range map[string]*fileAnswer{
		"a file that is there": {claim, time.Millisecond}, "a file that no neighbour has": {"", time.Millisecond},
	} {
		synctest.Test(t, func(t *testing.T) {
			ls, h := newAskingForFiles(s, map[peer.ID]*fileAnswer{"a": a})
			files := func(when string, want int) {
				t.Helper()
				if m, err := ls.Files(t.Context(), f); (err == nil) != (a.claim != "") || len(m) > 1 {
					t.Errorf("%s, %s: Files = %v, %v", name, when, m, err)
				}
				if got := h.questions(); got != want {
					t.Errorf("%s, %s: neighbours get %d questions, want %d", name, when, got, want)
				}
			}
			files("at first", 1)
			files("the second time", 0)
			time.Sleep(fileKept)
			files("later", 1)
			h.answers["b"] = a
			h.add(ls, "b")
			files("with a new neighbour", 2)
			files("again", 0)
			h.add(ls, "silent")
			files("with a silent neighbour", 3)
			files("with one that may answer now", 3)
		})
	}
}

// A neighbour answers one question after the other.
func TestFewFilesAreAskedForAtATime(t *testing.T) {
	s := trusttest.NewSigner(t)
	claim, f := fileNamed(t, "wanted")
	synctest.Test(t, func(t *testing.T) {
		ls, h := newAskingForFiles(s, map[peer.ID]*fileAnswer{"a": {claim, 100 * time.Millisecond}})
		var all sync.WaitGroup
		for range 3 * maxFilesAsked {
			all.Go(func() {
				if _, err := ls.Files(t.Context(), f); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if h.most != maxFilesAsked {
			t.Errorf("a neighbour is asked for %d files at once, want %d", h.most, maxFilesAsked)
		}
	})
}
