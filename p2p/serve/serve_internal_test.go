package serve

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"testing"

	"narbor/p2p/p2ptest"
	"narbor/p2p/wire"
	"narbor/store"
)

func TestNodeThatIsBeingStoppedAnswersNothing(t *testing.T) {
	srv, info := sharing(t, p2ptest.Random(1000))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	claims := wire.Request{Kind: wire.AskClaims, HashParts: []store.HashPart{info.Path.HashPart()}}
	for range 30 { // half of the time there is a turn first
		for _, r := range []wire.Request{claims, blockRequest(info, 0)} {
			var out bytes.Buffer
			w := answers{bufio.NewWriterSize(&out, 16), new(toldParts)}
			if err := srv.answer(ctx, newClient(srv, "asker"), w, r); err == nil || out.Len() > 0 {
				t.Fatalf("answer to a request of kind %d = %v and %q, want an error and nothing", r.Kind, err, out.Bytes())
			}
		}
	}
	w := answers{bufio.NewWriter(io.Discard), new(toldParts)}
	if err := srv.answerClaims(ctx, newClient(srv, "asker"), w, claims); err == nil || w.Buffered() > 0 {
		t.Errorf("answerClaims = %v with %d bytes to send, want an error and nothing", err, w.Buffered())
	}
}
