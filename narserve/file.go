package narserve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"narbor/store"
	"narbor/store/spool"
	"narbor/trust"
)

// Nix's builtin:fetchurl asks for a file by its content if the setting hashed-mirrors has this server's URL: with base
// 16, and one of Nix's four algorithms. The builder of nixpkgs' fetchurl does the same if NIX_HASHED_MIRRORS has it: it
// begins with HEAD, and takes the hash as the derivation spells it. Both take 404 for a miss and go to the URL. The
// name of the store path does not matter.

func (s *Server) fileAsked(path string) (trust.File, bool) {
	algo, hash, ok := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	if !ok || s.file == nil {
		return trust.File{}, false
	}
	f, err := trust.ParseFile(algo, hash)
	return f, err == nil
}

// fileReply answers a request for a file by its content. The file has been hashed with the algorithm of the URL before
// its first byte is sent. If it is not here within half of the time after which Nix would hang up, it is not found.
// Other machines may not ask for it, see [access.allowed].
func (s *Server) fileReply(r *http.Request, f trust.File) (reply, error) {
	if err := s.fetches.enter(); err != nil {
		return reply{}, err
	}
	defer s.fetches.life.Leave()
	stalled := s.stalled()
	if stalled <= 0 || stalled > mostStalled {
		stalled = mostStalled
	}
	ctx, cancel := context.WithTimeout(r.Context(), stalled/2)
	defer cancel()
	found, err := guard(func() ([]trust.Mapping, error) { return s.file(ctx, f) })
	if err != nil {
		return reply{}, err
	}
	sp, contents, err := s.fetchFile(ctx, f, found)
	if err != nil {
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

// fetchFile returns the first of the NARs that is the file, and its contents. Neighbours may have made up some of the mappings: each
// gets an equal part of the time that is left. The caller closes the NAR.
func (s *Server) fetchFile(ctx context.Context, f trust.File, from []trust.Mapping) (*spool.NAR, *io.SectionReader, error) {
	failed := fmt.Errorf("%s: %w", f, store.ErrNotFound)
	for i, m := range from {
		sp, contents, err := s.fetchFileAs(ctx, f, m, len(from)-i)
		if err == nil {
			return sp, contents, nil
		}
		failed = errors.Join(failed, err)
	}
	return nil, nil, failed
}

// fetchFileAs fetches the NAR of a mapping within one part of the time that is left.
func (s *Server) fetchFileAs(ctx context.Context, f trust.File, m trust.Mapping, parts int) (*spool.NAR, *io.SectionReader, error) {
	if end, ok := ctx.Deadline(); ok {
		part, cancel := context.WithTimeout(ctx, time.Until(end)/time.Duration(parts))
		defer cancel()
		ctx = part
	}
	if err := s.withhold(m); err != nil {
		return nil, nil, err
	}
	sp, err := s.fetches.do(ctx, m)
	if err != nil {
		return nil, nil, err
	}
	contents, err := f.In(sp)
	if err != nil {
		_ = sp.Close()
		return nil, nil, err
	}
	return sp, contents, nil
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
