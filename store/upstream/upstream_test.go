package upstream_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"narbor/store"
	"narbor/store/storetest"
	"narbor/store/upstream"
)

func openUpstream(t testing.TB, url, kept string) *upstream.Cache {
	t.Helper()
	u, err := upstream.Open(upstream.Config{URL: url, Agent: "narbor/test", Kept: kept})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := u.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return u
}

// serve serves requests until the test ends.
func serve(t testing.TB, h http.HandlerFunc) string {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv.URL
}

// stream reads an archive to its end.
func stream(ctx context.Context, u *upstream.Cache, info store.Info) ([]byte, error) {
	r, err := u.Stream(ctx, info)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(r)
	return b, errors.Join(err, r.Close())
}

func TestUpstreamHasWhatTheCacheHas(t *testing.T) {
	paths := storetest.CachePaths(t, goldenCaches)
	for _, compression := range []string{"none", "xz", "zstd"} {
		t.Run(compression, func(t *testing.T) {
			files := http.FileServer(http.Dir(filepath.Join(goldenCaches, compression)))
			u := openUpstream(t, serve(t, http.StripPrefix("/below/here", files).ServeHTTP)+"/below/here?priority=10", "")
			for _, p := range paths {
				storetest.TestSourceInfo(t, u2source{u}, p)
				got, err := stream(t.Context(), u, p.Info)
				if err != nil || !bytes.Equal(got, p.NAR) {
					t.Errorf("Stream(%s) = %d bytes, %v, want %d", p.Info.Path, len(got), err, len(p.NAR))
				}
				for _, size := range []int64{p.Info.NarSize - 8, p.Info.NarSize + 8} {
					info := p.Info
					info.NarSize = size
					if _, err := u.Stream(t.Context(), info); !errors.Is(err, store.ErrCorrupt) {
						t.Errorf("Stream with NarSize %d = %v, want ErrCorrupt", size, err)
					}
				}
			}
			absent := store.HashPart(strings.Repeat("0", 32))
			if _, err := u.Info(t.Context(), absent); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("Info(absent) = %v, want ErrNotFound", err)
			}
		})
	}
	t.Run("bzip2", func(t *testing.T) {
		u := openUpstream(t, serve(t, http.FileServer(http.Dir(filepath.Join(goldenCaches, "bzip2"))).ServeHTTP), "")
		if _, err := u.Info(t.Context(), paths[0].Info.Path.HashPart()); !errors.Is(err, store.ErrNotFound) ||
			!strings.Contains(err.Error(), "bzip2") {
			t.Errorf("Info = %v, want ErrNotFound that names bzip2", err)
		}
	})
}

// u2source lets the suite for sources ask what an upstream has of one.
type u2source struct{ *upstream.Cache }

func (u2source) NAR(context.Context, store.Info) (store.NAR, error) { return nil, store.ErrNotFound }

// oneCache serves one path; send answers the requests for its NAR.
func oneCache(t testing.TB, more string, nar []byte, send http.HandlerFunc) (*upstream.Cache, store.Info) {
	t.Helper()
	info := storetest.CachePaths(t, goldenCaches)[0].Info
	info.NarHash, info.NarSize = store.Hash{1}, int64(len(nar))
	return openUpstream(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, ".narinfo") {
			fmt.Fprintf(w, "%sURL: nar/file\n%s", info, more)
			return
		}
		send(w, r)
	}), ""), info
}

func TestUpstreamResumes(t *testing.T) {
	t.Parallel()
	nar, _ := storetest.RandomNAR(2, 1<<20)
	for name, ranges := range map[string]bool{"with ranges": true, "without": false} {
		for compression, pack := range map[string]func(testing.TB, []byte) []byte{"none": func(_ testing.TB, b []byte) []byte { return b },
			"xz": storetest.PackXZ, "zstd": storetest.PackZstd} {
			t.Run(compression+" "+name, func(t *testing.T) {
				t.Parallel() // they wait before they try again
				file := pack(t, nar)
				var requests atomic.Int64
				u, info := oneCache(t, "Compression: "+compression+"\nFileSize: "+strconv.Itoa(len(file))+"\n", nar,
					func(w http.ResponseWriter, r *http.Request) {
						n := requests.Add(1)
						w.Header().Set("ETag", `"one"`)
						if !ranges {
							r.Header.Del("Range")
						}
						if n <= 3 {
							w = &cutWriter{w, len(file) / 4 * int(n) / 2}
						}
						http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(file))
					})
				got, err := stream(t.Context(), u, info)
				if err != nil || !bytes.Equal(got, nar) {
					t.Errorf("Stream = %d bytes, %v, want %d", len(got), err, len(nar))
				}
				if requests.Load() != 4 {
					t.Errorf("%d requests, want 4", requests.Load())
				}
			})
		}
	}
}

// A cutWriter breaks the connection off after left bytes.
type cutWriter struct {
	http.ResponseWriter
	left int
}

func (c *cutWriter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p[:min(len(p), c.left)])
	if c.left -= n; c.left == 0 {
		c.ResponseWriter.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	return n, err
}

func TestUpstreamGivesUpOnWhatBreaksAgainAndAgain(t *testing.T) {
	t.Parallel()
	nar, _ := storetest.RandomNAR(3, 100_000)
	var requests atomic.Int64
	u, info := oneCache(t, "Compression: none\n", nar, func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		http.ServeContent(&cutWriter{w, 10}, r, "", time.Time{}, bytes.NewReader(nar))
	})
	if _, err := stream(t.Context(), u, info); err == nil || errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrCorrupt) {
		t.Errorf("Stream = %v, want another error than ErrNotFound and ErrCorrupt", err)
	}
	if n := requests.Load(); n < 2 || n > 10 {
		t.Errorf("%d requests, want a few", n)
	}
}

// skippable returns a frame of zstd that a decoder skips (RFC 8878, 3.1.2).
func skippable(size int) []byte {
	head := binary.LittleEndian.AppendUint32([]byte{0x50, 0x2a, 0x4d, 0x18}, uint32(size))
	return append(head, make([]byte, size)...)
}

func TestUpstreamRefusesBadArchives(t *testing.T) {
	nar, _ := storetest.RandomNAR(1, 20_000)
	nar = append(nar, make([]byte, 20_000)...)
	type file struct {
		more string
		sent []byte
	}
	files := map[string]file{
		"none long":     {"Compression: none\n", append(bytes.Clone(nar), 0)},
		"none short":    {"Compression: none\n", nar[1:]},
		"none endless":  {"Compression: none\n", make([]byte, 500_000)},
		"bomb xz":       {"Compression: xz\n", storetest.PackXZ(t, make([]byte, 5<<20))},
		"bomb zstd":     {"Compression: zstd\n", storetest.PackZstd(t, make([]byte, 5<<20))},
		"cut xz":        {"Compression: xz\n", storetest.PackXZ(t, nar)[:10_000]},
		"not zstd":      {"Compression: zstd\n", nar},
		"not xz":        {"Compression: xz\n", nar},
		"extended xz":   {"Compression: xz\n", append(storetest.PackXZ(t, nar), 1)},
		"extended zstd": {"Compression: zstd\n", append(storetest.PackZstd(t, nar), 1)},
		"padded zstd":   {"Compression: zstd\n", append(skippable(5<<20), storetest.PackZstd(t, nar)...)},
	}
	for name, f := range files {
		t.Run(name, func(t *testing.T) {
			u, info := oneCache(t, f.more, nar, func(w http.ResponseWriter, r *http.Request) { w.Write(f.sent) })
			got, err := stream(t.Context(), u, info)
			if !errors.Is(err, store.ErrCorrupt) {
				t.Errorf("Stream = %d bytes, %v, want ErrCorrupt", len(got), err)
			}
			if err != nil && !strings.Contains(err.Error(), u.String()) {
				t.Errorf("%q does not say of what", err)
			}
			if len(got) > len(nar) {
				t.Errorf("Stream gave %d bytes of a NAR of %d", len(got), len(nar))
			}
		})
	}
}

func TestUpstreamRefusesNarinfo(t *testing.T) {
	info := storetest.CachePaths(t, goldenCaches)[0].Info
	for text, want := range map[string]error{
		"URL: nar/a\n": store.ErrUnreadable, // bzip2
		"URL: https://elsewhere/a\nCompression: none\n":      store.ErrUnreadable,
		"URL: //elsewhere/a\nCompression: none\n":            store.ErrNotFound,
		"URL: ../a\nCompression: none\n":                     store.ErrNotFound,
		"URL: /a\nCompression: none\n":                       store.ErrNotFound,
		"URL: a/../../b\nCompression: none\n":                store.ErrNotFound,
		"Compression: none\n":                                store.ErrNotFound,
		"URL: nar/a\nCompression: none\nURL: nar/b\n":        store.ErrCorrupt,
		"URL: nar/a\nCompression: none\nStorePath: /a\n":     store.ErrCorrupt,
		"URL: nar/a\nCompression: none":                      store.ErrCorrupt,
		"URL: nar/a\nCompression: none\nFileSize: -1\n":      nil,
		"URL: nar/a?hash=1\nCompression: none\n":             nil,
		strings.Repeat("X: y\n", store.MaxInfoLen/5) + "Z: ": store.ErrCorrupt,
	} {
		u := openUpstream(t, serve(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, info.String()+text) }), "")
		if _, err := u.Info(t.Context(), info.Path.HashPart()); !errors.Is(err, want) {
			t.Errorf("Info of %.60q = %v, want %v", text, err, want)
		}
	}
}

func TestUpstreamSaysNotFoundOnlyIfItIsToldSo(t *testing.T) {
	hp := storetest.CachePaths(t, goldenCaches)[0].Info.Path.HashPart()
	for status, want := range map[int]bool{404: true, 403: true, 410: true, 400: false, 401: false, 500: false, 503: false, 429: false} {
		var requests atomic.Int64
		u := openUpstream(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
			requests.Add(1)
			if r.UserAgent() != "narbor/test" {
				t.Errorf("User-Agent = %q", r.UserAgent())
			}
			w.WriteHeader(status)
		}), "")
		for range 3 {
			if _, err := u.Info(t.Context(), hp); errors.Is(err, store.ErrNotFound) != want {
				t.Errorf("%d: Info = %v, want ErrNotFound: %v", status, err, want)
			}
		}
		if want && requests.Load() != 1 {
			t.Errorf("%d: asked %d times, want once a minute", status, requests.Load())
		}
		if down := status >= 429; u.Down() != down {
			t.Errorf("%d: Down = %v, want %v", status, u.Down(), down)
		}
	}
}

func TestUpstreamIsAskedOnceAtATime(t *testing.T) {
	var requests atomic.Int64
	var asking, wg sync.WaitGroup
	asking.Add(20)
	u := openUpstream(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		asking.Wait()
		w.WriteHeader(http.StatusNotFound)
	}), "")
	hp := storetest.CachePaths(t, goldenCaches)[0].Info.Path.HashPart()
	for range 20 {
		wg.Go(func() {
			asking.Done()
			if _, err := u.Info(t.Context(), hp); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("Info = %v, want ErrNotFound", err)
			}
		})
	}
	wg.Wait()
	if requests.Load() != 1 {
		t.Errorf("%d requests, want 1", requests.Load())
	}
}

func TestUpstreamIsAskedAgainForWhatItDidNotHave(t *testing.T) {
	var requests atomic.Int64
	u := openUpstream(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		http.NotFound(w, r)
	}), "")
	for i, tt := range []struct {
		after time.Duration
		want  int64
	}{{0, 1}, {0, 1}, {30 * time.Second, 1}, {30 * time.Second, 2}, {0, 2}} {
		u.Age(tt.after)
		if _, err := u.Info(t.Context(), "00000000000000000000000000000000"); !errors.Is(err, store.ErrNotFound) ||
			requests.Load() != tt.want {
			t.Errorf("question %d: %v after %d requests, want ErrNotFound after %d", i, err, requests.Load(), tt.want)
		}
	}
}

func TestUpstreamThatIsDownCostsOneWait(t *testing.T) {
	t.Parallel()
	hp := storetest.CachePaths(t, goldenCaches)[0].Info.Path.HashPart()
	var well atomic.Bool
	var requests atomic.Int64
	u := openUpstream(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		if !well.Load() {
			w.WriteHeader(http.StatusBadGateway)
		} else if strings.HasSuffix(r.URL.Path, ".narinfo") {
			w.WriteHeader(http.StatusNotFound)
		}
	}), "")
	for range 100 {
		if _, err := u.Info(t.Context(), hp); err == nil || errors.Is(err, store.ErrNotFound) {
			t.Fatalf("Info = %v, want that it could not be asked", err)
		}
	}
	if requests.Load() > 2 || !u.Down() {
		t.Errorf("%d requests to a server that is down, want 1", requests.Load())
	}
	well.Store(true)
	for deadline := time.Now().Add(storetest.AtMost(30 * time.Second)); ; time.Sleep(10 * time.Millisecond) {
		if _, err := u.Info(t.Context(), hp); errors.Is(err, store.ErrNotFound) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("it is back, and not asked")
		}
	}
}

func TestBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := new(upstream.Breaker)
		for _, pause := range []time.Duration{2, 4, 8, 16, 30, 30} {
			b.Answered(false)
			b.Answered(false)
			time.Sleep(pause*time.Second - 1)
			if ask, probe := b.Allows(); ask || probe {
				t.Fatalf("after %v s less a moment: ask %v, probe %v, want neither", pause, ask, probe)
			}
			time.Sleep(time.Nanosecond)
			if ask, probe := b.Allows(); ask || !probe {
				t.Fatalf("after %v s: ask %v, probe %v, want a probe", pause, ask, probe)
			}
			if ask, probe := b.Allows(); ask || probe {
				t.Fatalf("while it is probed: ask %v, probe %v, want neither", ask, probe)
			}
			b.Probed(false)
		}
		time.Sleep(time.Minute)
		b.Allows()
		b.Probed(true)
		if ask, probe := b.Allows(); !ask || probe {
			t.Fatalf("when it is back: ask %v, probe %v, want to ask", ask, probe)
		}
	})
}

func TestUpstreamKeepsNarinfos(t *testing.T) {
	p := storetest.CachePaths(t, goldenCaches)[0]
	hp := p.Info.Path.HashPart()
	dir := t.TempDir()
	files := http.FileServer(http.Dir(filepath.Join(goldenCaches, "zstd")))
	var infos atomic.Int64
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, ".narinfo") {
			infos.Add(1)
		}
		files.ServeHTTP(w, r)
	})
	first := openUpstream(t, url, dir)
	if _, err := first.Info(t.Context(), hp); err != nil {
		t.Fatal(err)
	}
	if err := first.Keep(p.Info); err != nil {
		t.Fatal(err)
	}
	second := openUpstream(t, url, dir)
	got, err := second.Info(t.Context(), hp)
	if err != nil || got.String() != p.Info.String() || infos.Load() != 1 {
		t.Errorf("Info after a restart = %v, %v, after %d questions; want it from the disk", got, err, infos.Load())
	}
	if nar, err := stream(t.Context(), second, p.Info); err != nil || !bytes.Equal(nar, p.NAR) || infos.Load() != 1 {
		t.Errorf("Stream after a restart = %d bytes, %v, after %d questions", len(nar), err, infos.Load())
	}
	name := filepath.Join(dir, string(hp))
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for i := range b {
		bad := bytes.Clone(b)
		bad[i] ^= 1
		if err := os.WriteFile(name, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if i%50 != 0 {
			continue
		}
		u := openUpstream(t, url, dir)
		if got, err := u.Info(t.Context(), hp); err != nil || got.String() != p.Info.String() {
			t.Errorf("Info with byte %d of the file damaged = %v, %v", i, got, err)
		}
	}
	before := infos.Load()
	second.Forget(hp)
	if _, err := second.Info(t.Context(), hp); err != nil || infos.Load() != before+1 {
		t.Errorf("Info of what was forgotten = %v, after %d more questions, want 1", err, infos.Load()-before)
	}
}

func TestKeptNarinfosAreBounded(t *testing.T) {
	dir := t.TempDir()
	text := strings.Repeat("x", 60<<10)
	part := func(i int) store.HashPart { return store.HashPartFromBytes([20]byte{byte(i), byte(i >> 8)}) }
	k, err := upstream.OpenKeptInfos(dir)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 600 { // 36 MB
		if err := k.Put(part(i), text); err != nil {
			t.Fatal(err)
		}
		k.Get(part(0))
	}
	for name, k := range map[string]upstream.KeptInfos{"same": k, "reopened": reopened(t, dir)} {
		_, first := k.Get(part(0))
		_, second := k.Get(part(1))
		_, last := k.Get(part(599))
		if !last || second || name == "same" && !first {
			t.Errorf("%s: kept: the one that is used %v, the oldest %v, the newest %v; want true, false, true", name, first, second, last)
		}
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) > 32<<20/len(text) {
		t.Errorf("%d files of %d bytes, %v, want at most 32 MiB", len(files), len(text), err)
	}
}

func reopened(t *testing.T, dir string) upstream.KeptInfos {
	k, err := upstream.OpenKeptInfos(dir)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestOpenRefuses(t *testing.T) {
	for _, url := range []string{"", "cache.nixos.org", "file:///tmp/cache", "s3://bucket", "http://", "https:///x", "://"} {
		if u, err := upstream.Open(upstream.Config{URL: url}); err == nil {
			t.Errorf("Open(%q) = %v, want an error", url, u)
		}
	}
}

// Some caches take a token as the user, some as the password.
func TestUpstreamKeepsItsSecrets(t *testing.T) {
	for _, login := range []string{"me:secret", "secret", "secret:", ":secret", "sec%40ret:x"} {
		u := openUpstream(t, "https://"+login+"@cache.example.org/x?priority=3", "")
		if u.String() != "https://xxxxx@cache.example.org/x/" || !u.Private() {
			t.Errorf("with %s it is called %s, private: %v", login, u, u.Private())
		}
		if _, err := upstream.Open(upstream.Config{URL: "s3://" + login + "@bucket"}); err == nil ||
			strings.Contains(err.Error(), "sec") {
			t.Errorf("Open(s3://%s@bucket) = %v, want an error without the secret", login, err)
		}
	}
	srv := httptest.NewServer(http.NotFoundHandler())
	srv.Close()
	down := openUpstream(t, strings.Replace(srv.URL, "://", "://secret@", 1), "")
	if _, err := down.Info(t.Context(), "00000000000000000000000000000000"); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("Info = %v, want an error without the secret", err)
	}
}
