package narserve_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"narbor/narserve"
)

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

// rawStatus returns the status of the answer to a request, after the server has closed the connection.
func rawStatus(t testing.TB, addr, request string) int {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	br := bufio.NewReader(c)
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatalf("%.60q: %v", request, err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, br); err != nil {
		t.Errorf("%.60q: the connection stays open: %v", request, err)
	}
	return resp.StatusCode
}

// A pipeListener accepts one connection that is no socket, so that synctest can run its clock.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (l pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }
func (l pipeListener) Close() error   { close(l.closed); return nil }

func TestIdleClientsAreLetGo(t *testing.T) {
	for _, tt := range []struct {
		name, sent string
		status     int
		closed     time.Duration
	}{
		{"sends nothing", "", 0, 10 * time.Second},
		{"sends half a header", "GET / HTTP/1.1\r\nHo", 0, 10 * time.Second},
		{"sends no body", "PUT /nix-cache-info HTTP/1.1\r\nHost: [::1]\r\nContent-Length: 9\r\n\r\n", 405, 5 * time.Second},
		{"sends no chunk", "GET /nix-cache-info HTTP/1.1\r\nHost: [::1]\r\nTransfer-Encoding: chunked\r\n\r\n", 200, 5 * time.Second},
		{"says no more", "GET /nix-cache-info HTTP/1.1\r\nHost: [::1]\r\n\r\n", 200, 3 * time.Minute},
		{"sends its body", "PUT /nix-cache-info HTTP/1.1\r\nHost: [::1]\r\nContent-Length: 1\r\n\r\nx", 405, 3 * time.Minute},
	} {
		synctest.Test(t, func(t *testing.T) {
			l := pipeListener{make(chan net.Conn, 1), make(chan struct{})}
			srv := narserve.New(narserve.Config{}).HTTPServer()
			done := make(chan struct{})
			go func() { defer close(done); srv.Serve(l) }()
			client, server := net.Pipe()
			l.conns <- server
			began := time.Now()
			if _, err := io.WriteString(client, tt.sent); err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(client)
			if err != nil {
				t.Errorf("%s: %v", tt.name, err)
			}
			if tt.status != 0 && !strings.HasPrefix(string(got), fmt.Sprintf("HTTP/1.1 %d ", tt.status)) {
				t.Errorf("%s: answered %.100q, want status %d", tt.name, got, tt.status)
			}
			if dur := time.Since(began); dur != tt.closed {
				t.Errorf("%s: let go after %v, want %v", tt.name, dur, tt.closed)
			}
			srv.Close()
			<-done
		})
	}
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
