package control

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestControlSocketKnowsItsOwners(t *testing.T) {
	const nobody = 65534
	for _, c := range []struct {
		uid, narbor uint32
		want        bool
	}{{0, 0, true}, {0, 1000, true}, {1000, 1000, true}, {1001, 1000, false}, {1000, 0, false}, {nobody, nobody, false},
		{0, nobody, true}} {
		if got := isOwner(c.uid, c.narbor); got != c.want {
			t.Errorf("user %d owns a narbor of user %d: %v, want %v", c.uid, c.narbor, got, c.want)
		}
	}
	if mayChange(t.Context()) {
		t.Error("a caller without a user ID may change things")
	}
}

func TestControlRequestIsBounded(t *testing.T) {
	for size, want := range map[int]int{maxControlBody: http.StatusOK, maxControlBody + 1: http.StatusInternalServerError} {
		w := httptest.NewRecorder()
		Answer(func(r *http.Request) (any, error) {
			text, err := io.ReadAll(r.Body)
			return len(text), err
		})(w, httptest.NewRequest(http.MethodPut, "/share", strings.NewReader(strings.Repeat("x", size))))
		if w.Code != want {
			t.Errorf("a body of %d bytes is answered with %d, want %d", size, w.Code, want)
		}
	}
}
