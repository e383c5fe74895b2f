package narserve_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"narbor/narserve"
	"narbor/store"
	"narbor/store/spool"
	"narbor/trust"
	"narbor/trust/trusttest"
)

// Of several mappings for a file the first that holds it is sent, however long a neighbour that has made one up takes.
func TestFileOfAnotherMapping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		info, nar, f := trusttest.FetchedFile(t, "wanted", []byte("contents"))
		w.mem.Add(info, nar)
		var found []trust.Mapping
		add := func(edit func(*store.Info)) {
			claim := info
			edit(&claim)
			m, err := w.keys.Check(claim)
			if err != nil {
				t.Fatal(err)
			}
			found = append(found, m)
		}
		add(func(i *store.Info) { i.NarHash[0]++ })
		add(func(i *store.Info) { i.NarHash[1]++ })
		add(func(*store.Info) {})
		src := stuckFile{w.local(), found[1].NarHash()}
		s := narserve.New(narserve.Config{Sources: []narserve.Source{src}, Keys: w.keys,
			File: func(context.Context, trust.File) ([]trust.Mapping, error) { return found, nil }})
		resp := do(s, "GET", "/sha256/"+strings.TrimPrefix(f.String(), "fixed:sha256:"))
		if got := string(body(t, resp)); resp.StatusCode != 200 || got != "contents" {
			t.Errorf("the answer is %d %q, want 200 and the file", resp.StatusCode, got)
		}
		found = found[:2]
		if resp := do(s, "GET", "/sha256/"+strings.TrimPrefix(f.String(), "fixed:sha256:")); resp.StatusCode != 404 {
			t.Errorf("without a true mapping the answer is %d, want 404", resp.StatusCode)
		}
		time.Sleep(time.Minute) // until no fetch goes on for a request to come
		w.wantIdle(t)
	})
}

// A stuckFile never ends the fetch of one NAR.
type stuckFile struct {
	narserve.Source
	nar store.Hash
}

func (s stuckFile) Fetch(ctx context.Context, m trust.Mapping) (*spool.NAR, error) {
	if m.NarHash() == s.nar {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return s.Source.Fetch(ctx, m)
}

func TestFileByContent(t *testing.T) {
	w := newWorld(t)
	info, nar, f := trusttest.FetchedFile(t, "fetched", []byte("contents of the file"))
	w.mem.Add(info, nar)
	wrong, nar, g := trusttest.FetchedFile(t, "tampered", []byte("as it should be"))
	nar[len(nar)-40] ^= 1
	wrong.NarHash = sha256.Sum256(nar)
	w.mem.Add(wrong, nar)
	copied, nar, h := trusttest.FetchedFile(t, "copied", []byte("a file that was copied in"))
	copied.Fetched = false
	w.mem.Add(copied, nar)
	infos := map[trust.File]store.Info{f: info, g: wrong, h: copied}
	s := narserve.New(narserve.Config{Sources: []narserve.Source{w.local()}, Keys: w.keys,
		File: func(_ context.Context, f trust.File) ([]trust.Mapping, error) {
			info, ok := infos[f]
			if !ok {
				return nil, store.ErrNotFound
			}
			m, err := w.keys.Check(info)
			return []trust.Mapping{m}, err
		}})
	url := func(contents string) string {
		sum := sha256.Sum256([]byte(contents))
		return "/sha256/" + hex.EncodeToString(sum[:])
	}
	for _, tt := range []struct {
		name, method, url, byteRange string
		status                       int
		body                         string
	}{
		{"whole", "GET", url("contents of the file"), "", 200, "contents of the file"},
		{"base 32", "GET", "/sha256/" + f.String()[len("fixed:sha256:"):], "", 200, "contents of the file"},
		{"head", "HEAD", url("contents of the file"), "", 200, ""},
		{"range", "GET", url("contents of the file"), "bytes=9-10", 206, "of"},
		{"the rest", "GET", url("contents of the file"), "bytes=16-", 206, "file"},
		{"range beyond the end", "GET", url("contents of the file"), "bytes=20-", 200, "contents of the file"},
		{"absent", "GET", url("another file"), "", 404, "not found\n"},
		{"tampered", "GET", url("as it should be"), "", 404, "not found\n"},
		{"copied in", "GET", url("a file that was copied in"), "", 404, "not found\n"},
		{"wrong algorithm", "GET", "/sha512/" + url("contents of the file")[8:], "", 404, "not found\n"},
	} {
		var header []string
		if tt.byteRange != "" {
			header = []string{"Range", tt.byteRange}
		}
		resp := do(s, tt.method, tt.url, header...)
		if got := string(body(t, resp)); resp.StatusCode != tt.status || got != tt.body {
			t.Errorf("%s: %d %q, want %d %q", tt.name, resp.StatusCode, got, tt.status, tt.body)
		}
		if tt.method == "HEAD" && resp.Header.Get("Content-Length") != "20" {
			t.Errorf("%s: Content-Length %s, want 20", tt.name, resp.Header.Get("Content-Length"))
		}
	}
	far := context.WithValue(t.Context(), http.LocalAddrContextKey, &net.TCPAddr{IP: net.IPv4(192, 168, 0, 1), Port: 6272})
	for _, host := range []string{"192.168.0.1:6272", "localhost:6272"} {
		r := httptest.NewRequest("GET", url("contents of the file"), nil).WithContext(far)
		r.Host = host
		rec := httptest.NewRecorder()
		s.ServeHTTP(rec, r)
		if rec.Code == 200 {
			t.Errorf("another machine, under the name %s: %d", host, rec.Code)
		}
	}
	if _, err := w.local().Lookup(t.Context(), info.Path.HashPart()); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Lookup by hash part = %v, want ErrNotFound", err)
	}
	w.wantIdle(t)
}
