package narserve

import (
	"context"
	"io"
	"net/http"
	"time"

	"narbor/store"
	"narbor/store/spool"
)

// A NAR reaches Nix when all of it is verified, which may take longer than Nix waits: it hangs up when no byte of a
// body has come for its stalled-download-timeout, of 300 s or what its configuration says. A NAR that is here within
// half of that is answered with 200, 206 or 404. After that the answer is a redirect to nar/late/<name>, with a body
// that grows until the NAR is here or cannot be had. libcurl reads the body of a redirect to its end and drops it; then
// Nix requests the other URL, and gets the NAR or 404. No byte of the NAR is sent early, and after 404 every version of
// Nix asks its next substituter.
//
// Measured with Nix 2.8.0, 2.26.3 and 2.34.8, a stalled-download-timeout of 5 s, and 25 s or more until the answer:
//
//	redirect, 8 bytes each second or each 4 s    one request and the one that follows; also with Range
//	redirect, 1 byte each second                 hangs up: the average over 5 s, rounded down, must reach 1 byte a second
//	redirects without a body                     each begins the time anew; the 11th fails
//	103 Early Hints each second                  hangs up: these bytes do not count
//	a NAR that breaks off                        4 more requests if it had Accept-Ranges, with Range; else, or after 404,
//	                                             the next substituter
//
// The first 56 bytes of a NAR are the same for all, and could be sent instead. With a timeout of 5 s they would last
// for half a minute, and a failure would then be a NAR that breaks off.
const (
	// mostStalled replaces a stalled-download-timeout that is longer or unlimited. It is below [writeTimeout].
	mostStalled = 9 * time.Minute
	// lateEvery is how often the body of a redirect grows by lateText. Other clients than Nix follow a redirect once
	// they have read some kilobytes of its body, and then get the next redirect, so that it must not grow fast.
	lateEvery, lateText = time.Second, "waiting\n"
)

// endArrival drops the arrival of a redirect that is not followed because the server has ended.
func (s *Server) endArrival(n *narReply, why error) {
	a, ok := s.arrivals.take(n.key())
	if !ok {
		return
	}
	if a.err == nil {
		_ = a.spooled.Close() // it stays in the spool
	}
	s.accounts.NotServed(n.m, time.Since(a.asked), why)
}

// patience returns the time limit for a NAR of size bytes, and a channel that says when to redirect the client if the
// NAR has not come by then. The channel is nil for a client that closes its connection after the answer: such a client
// does not read the body of a redirect.
func (s *Server) patience(r *http.Request, size int64) (limit time.Duration, redirect <-chan time.Time) {
	limit, stalled := store.FetchTime(size), s.stalled()
	if stalled <= 0 || stalled > mostStalled {
		stalled = mostStalled
	}
	if r.Close || r.ContentLength != 0 || !r.ProtoAtLeast(1, 1) {
		return min(limit, stalled*4/5), nil
	}
	return limit, time.After(stalled / 2)
}

// late returns a redirect for a NAR that has not come yet. Its body ends when the NAR has come or the fetch has failed,
// or ctx ends.
func (s *Server) late(ctx context.Context, n *narReply, location string, fetch *spool.Fetch) reply {
	ended := s.arrivals.wait()
	wait := func(w http.ResponseWriter, r *http.Request) {
		defer ended()
		defer n.done()
		defer s.ahead.waited()
		w.WriteHeader(http.StatusFound)
		rc := http.NewResponseController(w)
		tick := time.NewTicker(lateEvery)
		defer tick.Stop()
		for {
			_ = rc.SetWriteDeadline(time.Now().Add(writeTimeout)) // as in ServeHTTP
			_, _ = io.WriteString(w, lateText)                    // fails only if Nix has gone, and then the wait ends
			_ = rc.Flush()
			select {
			case <-fetch.Done():
			case <-s.fetches.life.Context().Done():
			case <-ctx.Done():
			case <-tick.C:
				continue
			}
			if sp, err := fetch.Wait(ctx); err == nil || r.Context().Err() == nil {
				s.arrivals.add(n.key(), arrival{n.asked, sp, err})
			}
			return
		}
	}
	return reply{status: http.StatusFound, contentType: "text/plain", header: map[string]string{"Location": location}, stream: wait}
}
