package narserve_test

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"narbor/narserve"
	"narbor/store"
	"narbor/store/spool"
	"narbor/trust"
)

// slowly is a source that takes so long to fetch, and then does what next does, or fails without next.
func slowly(w *world, d time.Duration, next narserve.Source) *probe {
	return &probe{inner: w.local(), fetch: func(ctx context.Context, m trust.Mapping) (*spool.NAR, error) {
		select {
		case <-time.After(d):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if next == nil {
			return nil, store.ErrNotFound
		}
		return next.Fetch(ctx, m)
	}}
}

// impatient is a stalled-download-timeout that is common in public configurations.
func impatient() time.Duration { return 5 * time.Second }

// raw sends a request, does not follow a redirect, and returns what came by when.
func raw(s http.Handler, path string) *httptest.ResponseRecorder {
	rec := httptest.NewRecorder()
	s.ServeHTTP(rec, newRequest(context.Background(), "GET", path))
	return rec
}

func TestLateNARIsRedirectedUntilItIsHere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		info, nar := w.add(t, "hello", 5000)
		src := slowly(w, time.Hour, w.local())
		s := narserve.New(narserve.Config{Sources: []narserve.Source{src}, Keys: w.keys, Stalled: impatient})
		info.NarSize = int64(len(nar))
		began := time.Now()
		rec := raw(s, narPath(info))
		if took := time.Since(began); rec.Code != 302 || took != store.FetchTime(info.NarSize) {
			t.Errorf("a NAR that does not come is answered with %d after %s, want 302 that ends after %s", rec.Code, took,
				store.FetchTime(info.NarSize))
		}
		location := rec.Header().Get("Location")
		if want := "late/" + narPath(info)[len("/nar/"):]; location != want {
			t.Errorf("redirected to %q, want %q", location, want)
		}
		wantStatus(t, "the URL that the redirect leads to", do(s, "GET", "/nar/"+location), 404)
		w.wantIdle(t)
	})
}

// pauses sends a request, and returns how long its head and then each next piece of its body took at most.
func pauses(t *testing.T, c net.Conn, path string) (head, longest time.Duration, resp *http.Response) {
	t.Helper()
	began := time.Now()
	io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: nix\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReaderSize(c, 16), nil)
	if err != nil {
		t.Fatal(err)
	}
	head = time.Since(began)
	got := 0
	for last, buf := time.Now(), make([]byte, 8); ; last = time.Now() {
		n, err := resp.Body.Read(buf)
		longest = max(longest, time.Since(last))
		if err != nil {
			if least := int(2 * time.Since(began).Seconds()); got < least {
				t.Errorf("%d bytes came, want %d: less than one a second, rounded down, does not count", got, least)
			}
			return head, longest, resp
		}
		got += n
	}
}

func TestRedirectKeepsGrowing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		info, _ := w.add(t, "hello", 5000)
		b := newBubble(narserve.Config{Sources: []narserve.Source{slowly(w, 3*time.Minute, w.local())}, Keys: w.keys, Stalled: impatient})
		defer b.close()
		c := b.dial()
		defer c.Close()
		head, longest, resp := pauses(t, c, narPath(info))
		if resp.StatusCode != 302 || head > 3*time.Second || longest > 2*time.Second {
			t.Errorf("status %d after %s and pauses of %s, want 302 and at most 3 s and 2 s", resp.StatusCode, head, longest)
		}
		if !strings.HasPrefix(resp.Header.Get("Location"), "late/") || resp.Close {
			t.Errorf("the redirect leads to %q, and closes the connection: %t", resp.Header.Get("Location"), resp.Close)
		}
		if head, _, resp := pauses(t, c, "/nar/"+resp.Header.Get("Location")); resp.StatusCode != 200 || head > time.Second {
			t.Errorf("the request that follows is answered with %d after %s, want 200 at once", resp.StatusCode, head)
		}
	})
}

// A NAR that comes within half of the timeout is sent without a redirect.
func TestNARWithinNixsPatienceIsNotRedirected(t *testing.T) {
	for name, c := range map[string]struct {
		stalled func() time.Duration
		takes   time.Duration
		want    int
	}{
		"as by default": {nil, 149 * time.Second, 200},
		"too late":      {nil, 151 * time.Second, 302},
		"impatient":     {impatient, 2 * time.Second, 200},
		"for ever":      {func() time.Duration { return 0 }, 239 * time.Second, 200},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			info, _ := w.add(t, "hello", 5000)
			s := narserve.New(narserve.Config{Sources: []narserve.Source{slowly(w, c.takes, w.local())}, Keys: w.keys, Stalled: c.stalled})
			if got := raw(s, narPath(info)).Code; got != c.want {
				t.Errorf("%s: a NAR that takes %s is answered with %d, want %d", name, c.takes, got, c.want)
			}
			time.Sleep(time.Minute) // until the arrival has been dropped
		})
	}
}

// An unlimited stalled-download-timeout does not keep a connection open for ever.
func TestLongPatienceIsBounded(t *testing.T) {
	for _, stalled := range []time.Duration{0, -1, time.Hour, 1 << 62} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			info, nar := w.info(t, "hello", 5000)
			info.NarSize = 2 << 30 // it may take half an hour
			w.sign(&info)
			w.mem.Add(info, nar)
			b := newBubble(narserve.Config{Sources: []narserve.Source{slowly(w, time.Hour, w.local())}, Keys: w.keys,
				Stalled: func() time.Duration { return stalled }})
			defer b.close()
			if status, took := b.ask(t, narPath(info)); status != 404 || took > 9*time.Minute {
				t.Errorf("with a timeout of %s: %d after %s, want 404 within 9 min", stalled, status, took)
			}
			time.Sleep(time.Minute) // until its fetch has ended
		})
	}
}

// A Go client that follows a redirect sends the URL of the redirect as Referer. Any other Referer is refused.
func TestOnlyOurRedirectIsAReferer(t *testing.T) {
	w := newWorld(t)
	info, _ := w.add(t, "hello", 5000)
	s := narserve.New(narserve.Config{Sources: []narserve.Source{w.local()}, Keys: w.keys})
	name := narPath(info)[len("/nar/"):]
	for _, c := range []struct {
		path, referer string
		want          int
	}{
		{"/nar/late/" + name, "/nar/" + name, 200},
		{"/nar/late/" + name, "/nar/late/" + name, 200},
		{"/nar/late/" + name, "/", 403},
		{"/nar/late/" + name, "/nar/late/", 403},
		{"/nar/" + name, "/nar/" + name, 403},
	} {
		r := newRequest(t.Context(), "GET", c.path)
		r.Header.Set("Referer", "http://"+r.Host+c.referer)
		rec := httptest.NewRecorder()
		if s.ServeHTTP(rec, r); rec.Code != c.want {
			t.Errorf("%s with Referer %s is answered with %d, want %d", c.path, c.referer, rec.Code, c.want)
		}
	}
	r := newRequest(t.Context(), "GET", "/nar/late/"+name)
	r.Header.Set("Referer", "http://evil.example/nar/"+name)
	rec := httptest.NewRecorder()
	if s.ServeHTTP(rec, r); rec.Code != 403 {
		t.Errorf("a Referer of another host is answered with %d, want 403", rec.Code)
	}
}

// A client that closes its connection after the answer would follow at once, ten times, and then give up.
func TestClientThatClosesIsNotRedirected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		info, _ := w.add(t, "hello", 5000)
		b := newBubble(narserve.Config{Sources: []narserve.Source{slowly(w, 3*time.Minute, w.local())}, Keys: w.keys})
		defer b.close()
		if status, took := b.ask(t, narPath(info)); status != 200 || took != 3*time.Minute {
			t.Errorf("answered with %d after %s, want 200 after 3 min", status, took)
		}
		time.Sleep(time.Minute)
		never := newBubble(narserve.Config{Sources: []narserve.Source{slowly(w, time.Hour, w.local())}, Keys: w.keys})
		defer never.close()
		if status, took := never.ask(t, narPath(info)); status != 404 || took != 4*time.Minute {
			t.Errorf("a NAR that does not come is answered with %d after %s, want 404 after 4 min", status, took)
		}
		time.Sleep(time.Minute) // until its fetch has ended
	})
}

// The source hangs when it is asked again: the NAR that has come for the redirect is not fetched a second time.
func TestRequestsThatFollowGetWhatHasCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		info, nar := w.add(t, "hello", 5000)
		src := slowly(w, 5*time.Second, w.local())
		s := narserve.New(narserve.Config{Sources: []narserve.Source{src}, Keys: w.keys, Stalled: impatient})
		var redirected sync.WaitGroup
		for range 3 {
			redirected.Go(func() { raw(s, narPath(info)) })
		}
		redirected.Wait()
		for i := range 3 {
			began := time.Now()
			got := body(t, do(s, "GET", "/nar/late/"+narPath(info)[len("/nar/"):]))
			if took := time.Since(began); !bytes.Equal(got, nar) || took != 0 {
				t.Errorf("request %d that follows gets %d bytes after %s, want %d at once", i, len(got), took, len(nar))
			}
		}
		if n := src.fetched.Load(); n != 1 {
			t.Errorf("fetched %d times, want once", n)
		}
		w.wantIdle(t)
	})
}

func TestFailureOfALateNARIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		info, _ := w.add(t, "hello", 5000)
		src := slowly(w, 5*time.Second, nil)
		s := narserve.New(narserve.Config{Sources: []narserve.Source{src}, Keys: w.keys, Stalled: impatient})
		began := time.Now()
		wantStatus(t, "a NAR that cannot be fetched", do(s, "GET", narPath(info)), 404)
		if took, n := time.Since(began), src.fetched.Load(); took > 6*time.Second || n != 1 {
			t.Errorf("404 after %s and %d fetches, want one of 5 s", took, n)
		}
		wantStatus(t, "the same again", do(s, "GET", narPath(info)), 404)
		if n := src.fetched.Load(); n != 2 {
			t.Errorf("%d fetches, want 2: a new request is a new chance", n)
		}
	})
}

func TestArrivalThatIsNotTakenIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		info, nar := w.add(t, "hello", 5000)
		s := narserve.New(narserve.Config{Sources: []narserve.Source{slowly(w, 5*time.Second, w.local())}, Keys: w.keys,
			Stalled: impatient})
		raw(s, narPath(info))
		time.Sleep(time.Minute) // the bubble's
		synctest.Wait()
		w.wantIdle(t)
		if got := body(t, do(s, "GET", "/nar/late/"+narPath(info)[len("/nar/"):])); !bytes.Equal(got, nar) {
			t.Errorf("a minute later the second URL has %d bytes, want %d", len(got), len(nar))
		}
	})
}

// Nix hangs up while it is redirected.
func TestClientThatLeavesARedirectLeavesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		info, _ := w.add(t, "hello", 5000)
		s := narserve.New(narserve.Config{Sources: []narserve.Source{slowly(w, time.Hour, nil)}, Keys: w.keys, Stalled: impatient})
		ctx, hangUp := context.WithTimeout(t.Context(), 10*time.Second)
		defer hangUp()
		began := time.Now()
		doContext(ctx, s, "GET", narPath(info))
		if took := time.Since(began); took > 11*time.Second {
			t.Errorf("the handler ends %s after the request began, which was left after 10 s", took)
		}
		time.Sleep(time.Minute) // until its fetch has ended
		synctest.Wait()
		w.wantIdle(t)
	})
}
