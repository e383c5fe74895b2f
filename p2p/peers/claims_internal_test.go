package peers

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"narbor/p2p/wire"
	"narbor/store"
)

// A testQuestion is abandoned or waits for all answers, and is asked again when its stream has ended.
type testQuestion struct {
	hp        store.HashPart
	abandoned bool
	replies   []Reply
}

func (q *testQuestion) HashPart() store.HashPart        { return q.hp }
func (q *testQuestion) Awaits(*Neighbour) bool          { return !q.abandoned }
func (q *testQuestion) Recall(*Neighbour) (Reply, bool) { return Reply{}, false }
func (q *testQuestion) Lost(*Neighbour) bool            { return true }
func (q *testQuestion) Answer(r Reply)                  { q.replies = append(q.replies, r) }

// An endingStream has an answer, and then ends.
type endingStream struct {
	network.Stream
	io.Reader
}

func (endingStream) Write(p []byte) (int, error)      { return len(p), nil }
func (s endingStream) Read(p []byte) (int, error)     { return s.Reader.Read(p) }
func (endingStream) SetReadDeadline(time.Time) error  { return nil }
func (endingStream) SetWriteDeadline(time.Time) error { return nil }
func (endingStream) Reset() error                     { return nil }

func numberedPart(i int) store.HashPart {
	return store.HashPartFromBytes([20]byte{byte(i), byte(i >> 8)})
}

func TestAnswersOfABrokenBatchCount(t *testing.T) {
	nb := newTestNeighbour(endingStream{Reader: bytes.NewReader(wire.AppendClaim(nil, "", false))})
	absent, lost := &testQuestion{hp: numberedPart(0)}, &testQuestion{hp: numberedPart(1)}
	if rest := nb.askOn(t.Context(), []Question{absent, lost}); !slices.Equal(rest, []Question{lost}) {
		t.Errorf("askOn returned %d questions, want the one that was not answered", len(rest))
	}
	if len(absent.replies) != 1 || absent.replies[0].Err != nil || absent.replies[0].Text != "" {
		t.Errorf("the question that was answered has the replies %v, want that the path is not here", absent.replies)
	}
}

func TestAbandonedQuestionsAreNotAsked(t *testing.T) {
	nb := newTestNeighbour(nil)
	abandoned, fresh := &testQuestion{hp: numberedPart(0), abandoned: true}, &testQuestion{hp: numberedPart(1)}
	nb.Asks <- fresh
	if got := nb.more([]Question{abandoned}); !slices.Equal(got, []Question{fresh}) {
		t.Errorf("%d questions are asked, want the one that a caller waits for", len(got))
	}
}

func TestUnaskedClaimsAreBounded(t *testing.T) {
	nb := newTestNeighbour(nil)
	for i := range 3 * maxPushed {
		nb.keepPushed(numberedPart(i), "x")
	}
	long := numberedPart(3 * maxPushed)
	nb.keepPushed(long, strings.Repeat("x", maxPushedLen+1))
	if _, kept := nb.Recall(long); nb.pushed.Len() > maxPushed || kept {
		t.Errorf("%d claims are kept, want at most %d; the long one: %v", nb.pushed.Len(), maxPushed, kept)
	}
}

func TestIdleStreamsAreBounded(t *testing.T) {
	nb := newTestNeighbour(endingStream{Reader: bytes.NewReader(nil)})
	for range 2 * maxIdleStreams {
		ex, err := nb.Open(t.Context(), ReadStall)
		if err != nil {
			t.Fatal(err)
		}
		nb.Put(ex)
	}
	if got := len(nb.idle); got != maxIdleStreams {
		t.Errorf("%d idle streams are kept, want %d", got, maxIdleStreams)
	}
}
