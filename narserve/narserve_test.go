package narserve_test

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
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
	"narbor/store"
	"narbor/trust"
)

const keyName = "test-1"

// A world is a store in memory, a spool on disk, and the key that signed what is in the store.
type world struct {
	secret ed25519.PrivateKey
	keys   *trust.Keys
	mem    *store.Mem
	spool  *store.Spool
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
	spool, err := store.OpenSpool(store.SpoolConfig{Dir: t.TempDir(), MaxBytes: 256 << 20, MinFree: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { spool.Close() })
	return &world{secret, keys, store.NewMem(), spool}
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

// fileNAR is the NAR of a regular file.
func fileNAR(contents []byte) []byte {
	return narStrings([]string{"nix-archive-1", "(", "type", "regular", "contents", string(contents), ")"})
}

func executableNAR(contents []byte) []byte {
	return narStrings([]string{"nix-archive-1", "(", "type", "regular", "executable", "", "contents", string(contents), ")"})
}

func narStrings(tokens []string) (nar []byte) {
	for _, s := range tokens {
		nar = binary.LittleEndian.AppendUint64(nar, uint64(len(s)))
		nar = append(nar, s...)
		nar = append(nar, make([]byte, (8-len(s)%8)%8)...)
	}
	return nar
}

func narPath(info store.Info) string {
	return "/nar/" + string(info.Path.HashPart()) + "-" + info.NarHash.Base32() + ".nar"
}

func narinfoPath(info store.Info) string { return "/" + string(info.Path.HashPart()) + ".narinfo" }

// A probe is a source that counts, and that tests can bend. What is nil is passed on to inner.
type probe struct {
	inner   narserve.Source
	lookup  func(context.Context, store.HashPart) (trust.Mapping, error)
	fetch   func(context.Context, trust.Mapping) (*store.Spooled, error)
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

func (p *probe) Fetch(ctx context.Context, m trust.Mapping) (*store.Spooled, error) {
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

func doContext(ctx context.Context, h http.Handler, method, target string, headers ...string) *http.Response {
	r := httptest.NewRequestWithContext(ctx, method, target, nil)
	r.Host = "127.0.0.1:6272"
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, r)
	return rec.Result()
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
	want := fmt.Sprintf("StorePath: %s\nNarHash: %s\nNarSize: %d\nReferences: %s\nSig: %s\nURL: %s\nCompression: none\n",
		info.Path, info.NarHash, info.NarSize, ref.Path.Base(), info.Signatures[0], narPath(info)[1:])
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

// TestHostileURLs speaks to a real server in raw bytes, as no client library would.
func TestHostileURLs(t *testing.T) {
	w := newWorld(t)
	info, _ := w.add(t, "hello", 5000)
	hp, hash := string(info.Path.HashPart()), info.NarHash.Base32()
	nar, narinfo := narPath(info), narinfoPath(info)
	srv := startServer(t, narserve.New(narserve.Config{Sources: []narserve.Source{w.local()}, Keys: w.keys}))
	notFound := []string{
		"/", "//", "/.", "/..", "/%2e", "/%2e%2e", "/%2e%2e/%2e%2e/etc/passwd", "/../../etc/passwd", "/./nix-cache-info",
		"//nix-cache-info", "/nix-cache-info/", "/nix-cache-info%00", "/nix-cache-info%20", "/nix%2dcache-info", "/NIX-CACHE-INFO",
		"/nix-cache-info.narinfo", "/.narinfo", "/%00.narinfo", "/narinfo", narinfo + "/", narinfo + "%00", narinfo + ".narinfo",
		"/" + narinfo, "/x/.." + narinfo, "/x/%2e%2e" + narinfo, "/%2f" + narinfo, "/nar" + narinfo, "/" + strings.ToUpper(hp) + ".narinfo",
		"/" + hp[:31] + ".narinfo", "/" + hp + "0.narinfo", "/" + hp[:31] + "e.narinfo", "/" + hp[:31] + "%65.narinfo",
		"/%" + strconv.FormatInt(int64(hp[0]), 16) + hp[1:] + ".narinfo", "/" + hp[:31] + "\u0430.narinfo", "/" + hp + ".NARINFO", "/" + hp,
		"/" + hp + ".ls", "/" + strings.Repeat("0", 10000) + ".narinfo", "/" + strings.Repeat("../", 2000) + "etc/passwd",
		"/nar", "/nar/", "/nar//", "/nar/.nar", "/nar/-.nar", "/nar/" + hp + ".nar", "/nar/" + hash + ".nar", "/nar/" + hp + "-.nar",
		"/nar/-" + hash + ".nar", "/nar/" + hash + "-" + hp + ".nar", nar + ".xz", nar + "/", nar + "%00", "/nar/." + nar[4:], "/nar/x/.." + nar[4:],
		"/nar%2f" + nar[5:], "/nar/%2e%2f" + nar[5:], "/" + nar, strings.Replace(nar, "-", "--", 1), strings.Replace(nar, "-", "%2d", 1),
		"/nar/" + hp + "-sha256:" + hash + ".nar", "/nar/" + hp + "-" + strings.Repeat("z", 52) + ".nar", "/nar/" + hp + "-" + hash[:51] + ".nar",
		"/nar/" + hp + "-" + info.NarHash.CID().Hash().HexString()[4:] + ".nar", "/nar/" + hp + "-" + strings.ToUpper(hash) + ".nar",
		"/nar/" + hp + "-" + hash + "-" + hash + ".nar", "/nar/" + hp + "-" + hash + ".narinfo", "/nar/" + hp + "-" + strings.Repeat("0", 52) + ".nar",
		"/log/x.drv", "/realisations/sha256:0!out.doi", "/metrics", "/debug/pprof/", "/favicon.ico", "http://evil.example/nix-cache-info",
		"/nix-cache-info;x", "/\u202enix-cache-info", "/%ff%fe", "/%c0%af", "/*", "/~root", "/nix/store/" + info.Path.Base(),
	}
	for _, target := range notFound {
		if got := rawStatus(t, srv, "GET "+target+" HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"); got != 404 {
			t.Errorf("GET %.100q = %d, want 404", target, got)
		}
	}
	// What is not HTTP, or not Go's idea of it, net/http refuses before anything here sees it.
	for request, want := range map[string]int{
		"GET /%zz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n":                                               400,
		"GET /\x00 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n":                                              400,
		"GET nix-cache-info HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n":                                     400,
		"GET /nix-cache-info HTTP/1.1\r\n\r\n":                                                       400,
		"GET /" + strings.Repeat("0", 40<<10) + " HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n":               431,
		"OPTIONS * HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n":                         405,
		"PUT /nix-cache-info HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n\r\n":         405,
		"GET /nix-cache-info HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n\r\n":         200,
		"GET /nix-cache-info?x=y HTTP/1.1\r\nHost: [::1]:6272\r\nConnection: close\r\n\r\n":          200,
		"GET /nix-cache-info HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil\r\nConnection: close\r\n\r\n": 400,
	} {
		if got := rawStatus(t, srv, request); got != want {
			t.Errorf("%.60q = %d, want %d", request, got, want)
		}
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

// rawStatus returns the status of the answer to a request, after the server has closed the connection.
func rawStatus(t testing.TB, addr, request string) int {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	br := bufio.NewReader(c)
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatalf("%.60q: %v", request, err)
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, br)
	return resp.StatusCode
}

func TestWebPagesAreRefused(t *testing.T) {
	s := narserve.New(narserve.Config{Hosts: []string{"Builder.lan", "nas."}})
	for host, want := range map[string]int{
		"127.0.0.1": 200, "127.0.0.1:6272": 200, "[::1]:6272": 200, "[::1]": 200, "192.168.1.7:80": 200, "[fe80::1]:6272": 200,
		"localhost": 200, "localhost:6272": 200, "LOCALHOST.": 200, "builder.lan:6272": 200, "BUILDER.LAN.": 200, "nas": 200,
		"": 404, "evil.example": 404, "evil.example:6272": 404, "localhost.evil.example": 404, "127.0.0.1.evil.example": 404,
		"evil.localhost": 404, "127.1": 404, "0x7f000001": 404, "127.0.0.1:": 404, "127.0.0.1:99999": 404, "127.0.0.1:a": 404, ":6272": 404,
		"[localhost]": 200, "[]": 404, "localhost..": 404, "local\u017fhost": 404,
	} {
		r := httptest.NewRequest("GET", "/nix-cache-info", nil)
		r.Host = host
		rec := httptest.NewRecorder()
		s.ServeHTTP(rec, r)
		if rec.Code != want {
			t.Errorf("Host %q: %d, want %d", host, rec.Code, want)
		}
	}
	for _, tt := range []struct {
		header, value string
		want          int
	}{
		{"Origin", "http://127.0.0.1:6272", 404}, {"Origin", "null", 404}, {"Origin", "", 404},
		{"Sec-Fetch-Site", "cross-site", 404}, {"Sec-Fetch-Site", "same-origin", 404}, {"Sec-Fetch-Site", "none", 200},
	} {
		wantStatus(t, tt.header+": "+tt.value, do(s, "GET", "/nix-cache-info", tt.header, tt.value), tt.want)
	}
}

func TestServerSetsItsLimits(t *testing.T) {
	srv := narserve.New(narserve.Config{}).HTTPServer()
	if srv.ReadHeaderTimeout <= 0 || srv.IdleTimeout <= 0 || srv.MaxHeaderBytes <= 0 || srv.ErrorLog == nil {
		t.Errorf("HTTPServer = %+v: a limit is missing", srv)
	}
	if srv.WriteTimeout != 0 || srv.ReadTimeout != 0 {
		t.Errorf("WriteTimeout %v and ReadTimeout %v would cut off a long NAR", srv.WriteTimeout, srv.ReadTimeout)
	}
}
