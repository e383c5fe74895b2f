package narserve

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"narbor/store"
	"narbor/trust"
)

// A file by its content is asked for by Nix's builtin:fetchurl, if its setting hashed-mirrors has this server's URL: with
// base 16, and one of Nix's four algorithms. The builder of nixpkgs' fetchurl does the same by NIX_HASHED_MIRRORS: it begins with
// HEAD, and takes the hash as the derivation spells it. Both take 404 for a miss and go to the URL. The name of the store
// path does not matter.

// fileAsked parses the URL's path of a file.
func (s *Server) fileAsked(path string) (trust.File, bool) {
	algo, hash, ok := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	if !ok || s.file == nil {
		return trust.File{}, false
	}
	f, err := trust.ParseFile(algo, hash)
	return f, err == nil
}

// fileReply answers a request for a file by its content. It has been hashed with the algorithm of the URL before its first byte is
// sent. A file that is not here within half of the time after which Nix would hang up is not found.
func (s *Server) fileReply(r *http.Request, f trust.File) (reply, error) {
	if !isOwn(r) {
		return reply{}, fmt.Errorf("%s: %w: files by their content are for this machine", f, store.ErrNotFound)
	}
	if err := s.fetches.enter(); err != nil {
		return reply{}, err
	}
	defer s.fetches.all.Done()
	stalled := s.stalled()
	if stalled <= 0 || stalled > mostStalled {
		stalled = mostStalled
	}
	ctx, cancel := context.WithTimeout(r.Context(), stalled/2)
	defer cancel()
	m, err := guard(func() (trust.Mapping, error) { return s.file(ctx, f) })
	if err == nil {
		err = s.withhold(m)
	}
	if err != nil {
		return reply{}, err
	}
	sp, err := s.fetches.do(ctx, m)
	if err != nil {
		return reply{}, err
	}
	contents, err := f.In(sp)
	if err != nil {
		_ = sp.Close()
		return reply{}, err
	}
	send := func(w http.ResponseWriter, r *http.Request) {
		defer sp.Close()
		if _, _, err := parseRange(r.Header, max(contents.Size(), 1)); err != nil {
			r.Header.Del("Range") // the whole, in place of 416
		}
		http.ServeContent(&pacedWriter{w, http.NewResponseController(w)}, r, "", time.Time{}, contents)
	}
	return reply{status: http.StatusOK, contentType: "application/octet-stream", stream: send}, nil
}

// A pacedWriter gives each write its own deadline, as that of [Server.copyNAR].
type pacedWriter struct {
	http.ResponseWriter
	rc *http.ResponseController
}

func (w *pacedWriter) Write(p []byte) (int, error) {
	_ = w.rc.SetWriteDeadline(time.Now().Add(writeTimeout)) // as in ServeHTTP
	return w.ResponseWriter.Write(p)
}
