package narserve_test

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"narbor/narserve"
	"narbor/narserve/stats"
	"narbor/store"
	"narbor/store/spool"
	"narbor/store/storetest"
	"narbor/trust"
)

const keyName = "test-1"

// A world is a store in memory, a spool on disk, and the key that signed the store's paths.
type world struct {
	secret ed25519.PrivateKey
	keys   *trust.Keys
	mem    *store.Mem
	spool  *spool.Spool
}

func newWorld(t testing.TB) *world {
	t.Helper()
	public, secret, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := trust.ParseKeys([]string{keyName + ":" + base64.StdEncoding.EncodeToString(public)})
	if err != nil {
		t.Fatal(err)
	}
	spool, err := spool.Open(spool.Config{Dir: t.TempDir(), MaxBytes: 256 << 20, MinFree: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { spool.Close() })
	return &world{secret, keys, new(store.Mem), spool}
}

// publicKey returns the key as Nix's trusted-public-keys has it.
func (w *world) publicKey() string {
	return keyName + ":" + base64.StdEncoding.EncodeToString(w.secret.Public().(ed25519.PublicKey))
}

func (w *world) local() narserve.Source { return narserve.Local(w.mem, w.keys, w.spool) }

// add puts a signed path into the store: a regular file of size pseudo-random bytes.
func (w *world) add(t testing.TB, name string, size int, refs ...store.Path) (store.Info, []byte) {
	t.Helper()
	info, nar := w.info(t, name, size, refs...)
	w.mem.Add(info, nar)
	return info, nar
}

// info makes a signed path and its NAR.
func (w *world) info(t testing.TB, name string, size int, refs ...store.Path) (store.Info, []byte) {
	t.Helper()
	seed := sha256.Sum256([]byte(name))
	contents := make([]byte, size)
	rand.NewChaCha8(seed).Read(contents)
	nar := fileNAR(contents)
	path, err := store.ParsePathName(string(store.HashPartFromBytes([20]byte(seed[:]))) + "-" + name)
	if err != nil {
		t.Fatal(err)
	}
	deriver, err := store.ParsePathName(string(store.HashPartFromBytes([20]byte(seed[12:]))) + "-" + name + ".drv")
	if err != nil {
		t.Fatal(err)
	}
	info := store.Info{Path: path, NarHash: sha256.Sum256(nar), NarSize: int64(len(nar)), References: store.SortPaths(refs),
		Deriver: deriver, CA: "fixed:r:sha256:0000000000000000000000000000000000000000000000000000"}
	w.sign(&info)
	return info, nar
}

func (w *world) sign(info *store.Info) {
	var refs []string
	for _, r := range info.References {
		refs = append(refs, r.String())
	}
	fingerprint := fmt.Sprintf("1;%s;%s;%d;%s", info.Path, info.NarHash, info.NarSize, strings.Join(refs, ","))
	sig := ed25519.Sign(w.secret, []byte(fingerprint))
	info.Signatures = []string{keyName + ":" + base64.StdEncoding.EncodeToString(sig)}
}

var fileNAR = storetest.FileNAR

func executableNAR(contents []byte) []byte {
	return []byte(storetest.Words("nix-archive-1", "(", "type", "regular", "executable", "", "contents", string(contents), ")"))
}

func narPath(info store.Info) string {
	return "/nar/" + string(info.Path.HashPart()) + "-" + info.NarHash.Base32() + ".nar"
}

func narinfoPath(info store.Info) string { return "/" + string(info.Path.HashPart()) + ".narinfo" }

// A probe is a source that counts calls, and that tests can change. A call to a nil function goes to inner.
type probe struct {
	inner   narserve.Source
	lookup  func(context.Context, store.HashPart) (trust.Mapping, error)
	fetch   func(context.Context, trust.Mapping) (*spool.NAR, error)
	lookups atomic.Int32
	fetched atomic.Int32
}

func (p *probe) Lookup(ctx context.Context, hp store.HashPart) (trust.Mapping, error) {
	p.lookups.Add(1)
	if p.lookup != nil {
		return p.lookup(ctx, hp)
	}
	return p.inner.Lookup(ctx, hp)
}

func (p *probe) Fetch(ctx context.Context, m trust.Mapping) (*spool.NAR, error) {
	p.fetched.Add(1)
	if p.fetch != nil {
		return p.fetch(ctx, m)
	}
	return p.inner.Fetch(ctx, m)
}

// do sends a request straight to the handler. Its headers come in pairs.
func do(h http.Handler, method, target string, headers ...string) *http.Response {
	return doContext(context.Background(), h, method, target, headers...)
}

// doContext follows redirects as Nix does.
func doContext(ctx context.Context, h http.Handler, method, target string, headers ...string) (resp *http.Response) {
	for range 11 {
		r := newRequest(ctx, method, target)
		for i := 0; i < len(headers); i += 2 {
			r.Header.Add(headers[i], headers[i+1])
		}
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, r)
		resp = rec.Result()
		location, err := resp.Location()
		if err != nil || ctx.Err() != nil {
			break
		}
		target = r.URL.ResolveReference(location).Path
	}
	return resp
}

// newRequest is a request as it arrives at 127.0.0.1:6272.
func newRequest(ctx context.Context, method, target string) *http.Request {
	ctx = context.WithValue(ctx, http.LocalAddrContextKey, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 6272})
	r := httptest.NewRequestWithContext(ctx, method, target, nil)
	r.Host = "127.0.0.1:6272"
	return r
}

func body(t testing.TB, resp *http.Response) []byte {
	t.Helper()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Errorf("reading the body: %v", err)
	}
	resp.Body.Close()
	return b
}

func wantStatus(t testing.TB, what string, resp *http.Response, status int) {
	t.Helper()
	if resp.StatusCode != status {
		t.Errorf("%s = %d, want %d", what, resp.StatusCode, status)
	}
}

func TestRoutes(t *testing.T) {
	w := newWorld(t)
	info, _ := w.add(t, "hello", 5000)
	absent, _ := w.info(t, "absent", 10)
	s := narserve.New(narserve.Config{Sources: []narserve.Source{w.local()}, Keys: w.keys})
	for _, path := range []string{"/nix-cache-info", narinfoPath(info), narPath(info), narinfoPath(absent), narPath(absent), "/", "/x"} {
		for _, method := range []string{"GET", "HEAD", "PUT", "POST", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "FOO", "get"} {
			want := http.StatusOK
			switch {
			case method != "GET" && method != "HEAD":
				want = http.StatusMethodNotAllowed
			case path == narinfoPath(absent) || path == narPath(absent) || path == "/" || path == "/x":
				want = http.StatusNotFound
			}
			resp := do(s, method, path)
			wantStatus(t, method+" "+path, resp, want)
			if b := body(t, resp); method == "HEAD" && len(b) != 0 {
				t.Errorf("HEAD %s has a body: %q", path, b)
			}
			if resp.Header.Get("Access-Control-Allow-Origin") != "" {
				t.Errorf("%s %s: invites web pages", method, path)
			}
		}
	}
}

func TestDoctorIsNotCountedAsNix(t *testing.T) {
	w := newWorld(t)
	absent, _ := w.info(t, "absent", 10)
	accounts := stats.New()
	s := narserve.New(narserve.Config{Sources: []narserve.Source{w.local()}, Keys: w.keys, Accounts: accounts})
	wantStatus(t, "the probe of doctor", do(s, "GET", narinfoPath(absent), "User-Agent", narserve.DoctorAgent), http.StatusNotFound)
	if st := s.Stats(); st.NarinfoMisses+st.NarinfoHits != 0 || accounts.Asked() {
		t.Errorf("after the probe of doctor: %+v, and requests %+v; want none", st, accounts.Account().Requests)
	}
	wantStatus(t, "a question of Nix", do(s, "GET", narinfoPath(absent)), http.StatusNotFound)
	if st := s.Stats(); st.NarinfoMisses != 1 || !accounts.Asked() {
		t.Errorf("after a question of Nix: %+v, and requests %+v; want one", st, accounts.Account().Requests)
	}
}

func TestCacheInfo(t *testing.T) {
	s := narserve.New(narserve.Config{})
	const want = "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 30\n"
	if got := string(body(t, do(s, "GET", "/nix-cache-info"))); got != want {
		t.Errorf("nix-cache-info = %q, want %q", got, want)
	}
	if got := do(s, "HEAD", "/nix-cache-info").Header.Get("Content-Length"); got != strconv.Itoa(len(want)) {
		t.Errorf("HEAD /nix-cache-info: Content-Length = %s, want %d", got, len(want))
	}
}

func TestNarinfoHoldsWhatIsVerifiedAndNoMore(t *testing.T) {
	w := newWorld(t)
	ref, _ := w.add(t, "ref", 10)
	info, nar := w.info(t, "hello", 100, ref.Path)
	info.Signatures = append(info.Signatures, "other-1:"+base64.StdEncoding.EncodeToString(make([]byte, 64)))
	w.mem.Add(info, nar)
	s := narserve.New(narserve.Config{Sources: []narserve.Source{w.local()}, Keys: w.keys})
	resp := do(s, "GET", narinfoPath(info))
	got := string(body(t, resp))
	want := fmt.Sprintf("StorePath: %s\nNarHash: %s\nNarSize: %d\nReferences: %s\nSig: %s\nURL: %s\nCompression: none\nFileHash: "+
		"%s\nFileSize: %d\n",
		info.Path, info.NarHash, info.NarSize, ref.Path.Base(), info.Signatures[0], narPath(info)[1:], info.NarHash, info.NarSize)
	if got != want {
		t.Errorf("narinfo = %q, want %q", got, want)
	}
	if ct := resp.Header.Get("Content-Type"); ct != "text/x-nix-narinfo" {
		t.Errorf("Content-Type = %q", ct)
	}
	head := do(s, "HEAD", narinfoPath(info))
	if cl := head.Header.Get("Content-Length"); cl != strconv.Itoa(len(want)) {
		t.Errorf("HEAD: Content-Length = %s, want %d", cl, len(want))
	}
	if st := s.Stats(); st.NarinfoHits != 2 || st.NarinfoMisses != 0 {
		t.Errorf("Stats = %+v, want 2 hits", st)
	}
}

// startServer serves s on a loopback port, with s's own limits, and returns the address.
func startServer(t testing.TB, s *narserve.Server) string {
	t.Helper()
	return serve(t, s.HTTPServer())
}

func startHandler(t testing.TB, h http.Handler) string {
	t.Helper()
	return serve(t, &http.Server{Handler: h})
}

func serve(t testing.TB, srv *http.Server) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); srv.Serve(l) }()
	t.Cleanup(func() { srv.Close(); <-done })
	return l.Addr().String()
}
