package dashboard

import (
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"narbor/narserve"
	"narbor/narserve/stats"
)

// A fullWriter is the connection of a browser that does not read: a write blocks until the deadline that was set, or
// for an hour if none was.
type fullWriter struct {
	http.ResponseWriter
	deadline time.Time
}

func (w *fullWriter) SetWriteDeadline(t time.Time) error {
	w.deadline = t
	return nil
}

func (w *fullWriter) Write([]byte) (int, error) {
	wait := time.Hour
	if !w.deadline.IsZero() {
		wait = time.Until(w.deadline)
	}
	time.Sleep(wait)
	return 0, os.ErrDeadlineExceeded
}

func TestBrowserThatDoesNotReadLosesItsStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(func() Facts { return Facts{} }, stats.New())
		a := p.stream(narserve.Reply{})
		if a.Stream == nil {
			t.Fatalf("stream = %+v", a)
		}
		began := time.Now()
		a.Stream(&fullWriter{ResponseWriter: httptest.NewRecorder()}, httptest.NewRequest(http.MethodGet, "/events", nil))
		if took := time.Since(began); took > streamTimeout {
			t.Errorf("a browser that does not read keeps its stream for %v, want at most %v", took, streamTimeout)
		}
		if len(p.streams) != 0 {
			t.Errorf("%d streams are still counted, want 0", len(p.streams))
		}
	})
}
