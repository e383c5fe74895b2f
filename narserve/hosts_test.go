package narserve_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"narbor/narserve"
)

// A hostCase is what follows the request line, up to the empty line, and the status that it deserves. PORT is the port
// of the server, OTHER another one.
type hostCase struct {
	headers string
	want    int
}

var hostCases = []hostCase{
	// Nix on this machine, however its substituter is written.
	{"Host: 127.0.0.1:PORT", 200}, {"Host: localhost:PORT", 200}, {"Host: [::1]:PORT", 200}, {"host:127.0.0.1:PORT", 200},
	{"Host: LOCALHOST:PORT", 200}, {"Host: LocalHost.:PORT", 200}, {"Host: [0:0:0:0:0:0:0:1]:PORT", 200},
	{"Host: [::ffff:127.0.0.1]:PORT", 200},
	{"Host:  127.0.0.1:PORT ", 200}, {"Host: 127.0.0.1.:PORT", 200}, {"HOST: 127.0.0.1:PORT", 200},
	// Names that the user has allowed, at any port: it may be forwarded.
	{"Host: builder.lan:PORT", 200}, {"Host: BUILDER.LAN.:OTHER", 200}, {"Host: nas", 200}, {"Host: nas.", 200},
	{"Host: 10.0.2.2:OTHER", 200},
	{"Host: 10.0.2.2", 200}, {"Host: [fd00::2]:OTHER", 200}, {"Host: [FD00:0::2%25eth0]", 200},
	// An address that a guest or a machine of the same network may have for this one.
	{"Host: 10.0.2.2:PORT", 200}, {"Host: 127.0.0.2:PORT", 200}, {"Host: 192.168.1.7:PORT", 200}, {"Host: 192.168.122.1:PORT", 200},
	{"Host: 172.31.0.1:PORT", 200},
	{"Host: 169.254.1.1:PORT", 200}, {"Host: [fe80::1]:PORT", 200}, {"Host: [fe80::1%25virbr0]:PORT", 200}, {"Host: [fd00::7]:PORT", 200},
	{"Host: [::ffff:10.0.2.2]:PORT", 200},
	{"Host: 192.168.1.7:PORT\r\nUser-Agent: curl/8.5.0 Nix/2.31\r\nAccept: */*\r\nAccept-Encoding: zstd", 200},
	{"Host: 10.0.2.2:PORT\r\nUser-Agent: Wget", 200},
	{"Host: 192.168.1.7", 403}, {"Host: 192.168.1.7:OTHER", 403}, {"Host: [fd00::7]", 403}, {"Host: 10.0.2.2.:PORT", 200},
	{"Host: 10.0.2.2.evil.example:PORT", 403}, {"Host: 10-0-2-2.nip.io:PORT", 403}, {"Host: 10.2:PORT", 403}, {"Host: 0xa000202:PORT", 403},
	// Any other address, which no program on this machine uses for it.
	{"Host: 8.8.8.8:PORT", 403}, {"Host: 172.32.0.1:PORT", 403}, {"Host: 100.64.0.1:PORT", 403}, {"Host: 224.0.0.251:PORT", 403},
	{"Host: 255.255.255.255:PORT", 403},
	{"Host: [2001:db8::1]:PORT", 403}, {"Host: [ff02::fb]:PORT", 403}, {"Host: [64:ff9b::a00:202]:PORT", 403},
	// A browser that asks by such an address: it sends no Sec-Fetch-Site there.
	{"Host: 192.168.1.7:PORT\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0", 403},
	{"Host: 10.0.2.2:PORT\r\nuser-agent: Mozilla/5.0", 403}, {"Host: [fd00::7]:PORT\r\nAccept-Language: en", 403},
	{"Host: 10.0.2.2:PORT\r\nAccept-Language:", 403},
	{"Host: nas\r\nUser-Agent: Mozilla/5.0", 403}, {"Host: nas\r\nAccept-Language: en", 403},
	{"Host: 10.0.2.2:PORT\r\nOrigin: http://10.0.2.2:PORT", 403},
	{"Host: 10.0.2.2:PORT\r\nReferer: http://10.0.2.2:PORT/", 403}, {"Host: 10.0.2.2:PORT\r\nSec-Fetch-Site: cross-site", 403},
	// Another port, or none, which is 80: ssh forwards it.
	{"Host: 127.0.0.1", 200}, {"Host: localhost", 200}, {"Host: [::1]", 200}, {"Host: 127.0.0.1:OTHER", 200},
	{"Host: localhost:16272", 200},
	{"Host: localhost:OTHER\r\nOrigin: http://localhost:OTHER", 403}, {"Host: localhost:OTHER\r\nSec-Fetch-Site: cross-site", 403},
	{"Host: evil.example:OTHER", 403},
	{"Host: 127.0.0.1:", 403}, {"Host: 127.0.0.1:99999", 403}, {"Host: 127.0.0.1:a", 403}, {"Host: 127.0.0.1:-1", 403},
	{"Host: 127.0.0.1:+PORT", 403},
	{"Host: 127.0.0.1:PORT:PORT", 403}, {"Host: 127.0.0.1:0", 403},
	// A name that its owner lets point here, and what looks like one of ours.
	{"Host: evil.example:PORT", 403}, {"Host: evil.example", 403}, {"Host: localhost.evil.example:PORT", 403},
	{"Host: 127.0.0.1.evil.example:PORT", 403},
	{"Host: evil.localhost:PORT", 403}, {"Host: localhost..:PORT", 403}, {"Host: .localhost:PORT", 403}, {"Host: localhostt:PORT", 403},
	{"Host: 127-0-0-1.nip.io:PORT", 403}, {"Host: builder.lan.evil.example:PORT", 403}, {"Host: xbuilder.lan:PORT", 403},
	{"Host: nas.lan:PORT", 403}, {"Host: localtest.me:PORT", 403},
	// Other ways to write an address, which browsers rewrite and Nix does not use.
	{"Host: 127.1:PORT", 403}, {"Host: 0x7f000001:PORT", 403}, {"Host: 2130706433:PORT", 403}, {"Host: 0177.0.0.1:PORT", 403},
	{"Host: 127.0.0.01:PORT", 403},
	{"Host: 0.0.0.0:PORT", 403}, {"Host: [::]:PORT", 403},
	{"Host: ::1", 403}, {"Host: ::1:PORT", 403}, {"Host: fd00::2", 403}, {"Host: [localhost]:PORT", 403}, {"Host: [nas]", 403},
	{"Host: [127.0.0.1]:PORT", 403},
	{"Host: [10.0.2.2]", 403}, {"Host: []:PORT", 403}, {"Host: [::1:PORT", 403}, {"Host: ::1]:PORT", 403}, {"Host: [[::1]]:PORT", 403},
	{"Host: [::1]x:PORT", 403},
	{"Host: :PORT", 403}, {"Host:", 403}, {"Host: .:PORT", 403}, {"Host: [::2]:PORT", 403},
	// Not a host at all.
	{"Host: me@127.0.0.1:PORT", 400}, {"Host: 127.0.0.1:PORT@evil.example", 400}, {"Host: me:me@localhost:PORT", 400},
	{"Host: 127.0.0.1:PORT,evil.example", 403},
	{"Host: *", 403}, {"Host: 127.0.0.1:PORT;x", 403}, {"Host: 127%2e0.0.1:PORT", 403}, {"Host: %6cocalhost:PORT", 403},
	{"Host: 127.0.0.1:PORT/", 400}, {"Host: http://127.0.0.1:PORT", 400}, {"Host: 127.0.0.1 :PORT", 400}, {"Host: 127.0.0.1\\:PORT", 400},
	{"Host: local\u017fhost:PORT", 400}, {"Host: \uff11\uff12\uff17.0.0.1:PORT", 400}, {"Host: 127.0.0.1\x00:PORT", 400},
	{"Host: 127.0.0.1#:PORT", 400},
	{"Host: 127.0.0.1:PORT\r\n evil.example", 400},
	// None, several, or in another place.
	{"X: y", 400}, {"Host: 127.0.0.1:PORT\r\nHost: 127.0.0.1:PORT", 400}, {"Host: 127.0.0.1:PORT\r\nHost: evil.example", 400},
	{"Host: evil.example\r\nHost: 127.0.0.1:PORT", 400}, {"Host : 127.0.0.1:PORT", 400}, {" Host: 127.0.0.1:PORT", 400},
	{"Host: evil.example\r\nX-Forwarded-Host: 127.0.0.1:PORT", 403}, {"Host: evil.example\r\nForwarded: host=localhost:PORT", 403},
	{"Host: 127.0.0.1:PORT\r\nX-Forwarded-Host: evil.example", 200},
	// A page of another origin.
	{"Host: 127.0.0.1:PORT\r\nOrigin: http://evil.example", 403}, {"Host: 127.0.0.1:PORT\r\nOrigin: null", 403},
	{"Host: 127.0.0.1:PORT\r\nOrigin:", 403},
	{"Host: 127.0.0.1:PORT\r\norigin: http://127.0.0.1:PORT", 403}, {"Host: localhost:PORT\r\nOrigin: http://localhost:3000", 403},
	{"Host: 127.0.0.1:PORT\r\nOrigin: moz-extension://x", 403}, {"Host: nas\r\nOrigin: http://evil.example", 403},
	{"Host: 127.0.0.1:PORT\r\nReferer: http://evil.example/", 403}, {"Host: 127.0.0.1:PORT\r\nReferer:", 403},
	{"Host: 127.0.0.1:PORT\r\nSec-Fetch-Site: cross-site", 403}, {"Host: 127.0.0.1:PORT\r\nSec-Fetch-Site: same-site", 403},
	{"Host: 127.0.0.1:PORT\r\nSec-Fetch-Site: same-origin", 403}, {"Host: 127.0.0.1:PORT\r\nsec-fetch-site: CROSS-SITE", 403},
	{"Host: 127.0.0.1:PORT\r\nSec-Fetch-Site:", 403}, {"Host: 127.0.0.1:PORT\r\nSec-Fetch-Site: none\r\nSec-Fetch-Site: cross-site", 403},
	{"Host: 127.0.0.1:PORT\r\nSec-Fetch-Site: none, cross-site", 403},
	{"Host: 127.0.0.1:PORT\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Site: cross-site", 403},
	{"Host: 127.0.0.1:PORT\r\nSec-Fetch-Site: none\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document", 200}, // typed by its user
	{"Host: 127.0.0.1:PORT\r\nUser-Agent: curl/8.5.0 Nix/2.31\r\nAccept: */*\r\nAccept-Encoding: zstd", 200},
}

// answerTo sends a request as it stands and returns the answer with its body, or nil if there is none.
func answerTo(t testing.TB, addr, request string) (*http.Response, string) {
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
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Errorf("%.100q: %v", request, err)
		return nil, ""
	}
	return resp, string(body(t, resp))
}

// TestWebPagesAreRefused asks for a path that is there, so that a hole would show something. A refused request must not
// even reach a source: the time that this takes would tell a page what it may not read.
func TestWebPagesAreRefused(t *testing.T) {
	w := newWorld(t)
	info, _ := w.add(t, "hello", 100)
	src := &probe{inner: w.local()}
	addr := startServer(t, narserve.New(narserve.Config{Sources: []narserve.Source{src}, Keys: w.keys,
		Hosts: []string{"Builder.lan", "nas.", "10.0.2.2", "FD00::2"}}))
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	ports := strings.NewReplacer("PORT", port, "OTHER", "9")
	for _, tt := range hostCases {
		for _, method := range []string{"GET", "OPTIONS", "POST"} {
			want := tt.want
			if want == 200 && method != "GET" {
				want = 405
			}
			request := method + " " + narinfoPath(info) + " HTTP/1.1\r\n" + ports.Replace(tt.headers) + "\r\nConnection: close\r\n\r\n"
			before := src.lookups.Load()
			resp, text := answerTo(t, addr, request)
			if resp == nil {
				continue
			}
			wantStatus(t, method+" with "+tt.headers, resp, want)
			told := strings.Contains(text, "StorePath") || src.lookups.Load() != before
			if told != (want == 200) {
				t.Errorf("%s with %q: asked the source %d times, answered %q", method, tt.headers, src.lookups.Load()-before, text)
			}
			for name := range resp.Header {
				if strings.HasPrefix(name, "Access-Control-") || name == "Timing-Allow-Origin" {
					t.Errorf("%s with %q: the answer has %s, which invites web pages", method, tt.headers, name)
				}
			}
		}
	}
}

// TestHostOfAnAddressListenedOn has a server on an address that is neither of the usual ones.
func TestHostOfAnAddressListenedOn(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		t.Skip("no 127.0.0.2:", err) // as on macOS
	}
	srv := narserve.New(narserve.Config{}).HTTPServer()
	done := make(chan struct{})
	go func() { defer close(done); srv.Serve(l) }()
	defer func() { srv.Close(); <-done }()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]int{"127.0.0.2": 200, "127.0.0.1": 200, "localhost": 200, "8.8.8.8": 403} {
		resp, _ := answerTo(t, l.Addr().String(), "GET /nix-cache-info HTTP/1.1\r\nHost: "+host+":"+port+"\r\n\r\n")
		wantStatus(t, "Host "+host, resp, want)
	}
}

// TestOthersGetWhatNixAsksForAndNoMore is about all that is beside the cache: it tells of this machine's user, and so
// is for this machine alone. A program that is on this machine, or in a guest behind QEMU's user networking, can say
// any Host; a machine that comes by another interface cannot be on this one.
func TestOthersGetWhatNixAsksForAndNoMore(t *testing.T) {
	s := narserve.New(narserve.Config{Hosts: []string{"nas"}})
	loopback, lan := net.IPv4(127, 0, 0, 1), net.IPv4(192, 168, 1, 7)
	for _, path := range []string{"/", "/api/v1/status", "/metrics", "/healthz", "/favicon.ico", "/nar", "/narinfo", "/x"} {
		for _, tt := range []struct {
			host  string
			local net.IP
			open  bool
		}{
			{"127.0.0.1:6272", loopback, true}, {"localhost:6272", loopback, true}, {"[::1]:6272", net.IPv6loopback, true},
			{"[::1]:6272", loopback, true},
			{"127.0.0.2:6272", net.IPv4(127, 0, 0, 2), false}, {"10.0.2.2:6272", loopback, false}, {"192.168.1.7:6272", lan, false},
			{"nas:6272", loopback, false},
			{"nas", lan, false}, {"localhost:6272", lan, false}, {"127.0.0.1:6272", lan, false},
			{"[::1]:6272", net.ParseIP("fe80::1"), false},
			{"evil.example:6272", loopback, false},
		} {
			ask := func(path string) int {
				r := httptest.NewRequest("GET", path, nil)
				r.Host = tt.host
				w := httptest.NewRecorder()
				s.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey,
					&net.TCPAddr{IP: tt.local, Port: 6272})))
				return w.Code
			}
			if got := ask(path); (got != http.StatusForbidden) != tt.open {
				t.Errorf("GET %s with Host %s at %s: status %d", path, tt.host, tt.local, got)
			}
			if got := ask("/nix-cache-info"); (got == http.StatusOK) != (tt.host != "evil.example:6272") {
				t.Errorf("GET /nix-cache-info with Host %s at %s: status %d", tt.host, tt.local, got)
			}
		}
	}
}

// TestAbsoluteTargets is about requests that are written as to a proxy. Nothing that Nix sends us is.
func TestAbsoluteTargets(t *testing.T) {
	addr := startServer(t, narserve.New(narserve.Config{}))
	for target, want := range map[string][2]int{ // with our own Host, and with a page's
		"http://HERE/nix-cache-info": {404, 404}, "HTTP://HERE/nix-cache-info": {404, 404}, "https://HERE/nix-cache-info": {404, 404},
		"http://me@HERE/nix-cache-info": {404, 404}, "http://HERE": {404, 404}, "http://HERE/": {404, 404},
		"//HERE/nix-cache-info":              {404, 403},
		"http://evil.example/nix-cache-info": {403, 403}, "http://evil.example:80/nix-cache-info": {403, 403},
		"http://evil.example":                     {403, 403},
		"http://HERE@evil.example/nix-cache-info": {403, 403}, "http://evil.example#@HERE/nix-cache-info": {400, 400},
		"//evil.example/nix-cache-info": {404, 403},
		"http:///nix-cache-info":        {404, 403}, "http:/nix-cache-info": {404, 403}, "http:nix-cache-info": {404, 403},
		"file:///nix-cache-info": {404, 403},
		"file:///etc/passwd":     {404, 403}, "x:/nix-cache-info": {404, 403}, "HERE": {400, 400},
		"evil.example/nix-cache-info": {400, 400},
	} {
		target := strings.ReplaceAll(target, "HERE", addr)
		for i, host := range []string{addr, "evil.example"} {
			resp, text := answerTo(t, addr, "GET "+target+" HTTP/1.1\r\nHost: "+host+"\r\nConnection: close\r\n\r\n")
			if resp == nil {
				continue
			}
			wantStatus(t, "GET "+target+" with Host "+host, resp, want[i])
			if strings.Contains(text, "StoreDir") {
				t.Errorf("GET %s with Host %s: %q", target, host, text)
			}
		}
	}
}

func TestWithoutAPageThereIsNone(t *testing.T) {
	s := narserve.New(narserve.Config{})
	for _, path := range []string{"/", "/events", "/metrics", "/api/v1/status", "/healthz"} {
		if resp := do(s, http.MethodGet, path); resp.StatusCode != http.StatusNotFound {
			t.Errorf("GET %s = %s, want 404", path, resp.Status)
		}
	}
}
