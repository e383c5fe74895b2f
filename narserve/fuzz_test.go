package narserve_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"narbor/narserve"
)

// fuzzServer serves one path, with a name that never changes. It logs errors alone: a panic is one.
func fuzzServer(f *testing.F) (s *narserve.Server, narinfo, nar string, bytes []byte, logs *observer.ObservedLogs) {
	w := newWorld(f)
	info, b := w.add(f, "hello", 200)
	core, logs := observer.New(zap.ErrorLevel)
	s = narserve.New(narserve.Config{Sources: []narserve.Source{w.local()}, Keys: w.keys, Log: zap.New(core)})
	return s, narinfoPath(info), narPath(info), b, logs
}

// FuzzRequest is any request that net/http lets through.
func FuzzRequest(f *testing.F) {
	s, narinfo, nar, narBytes, logs := fuzzServer(f)
	for _, path := range []string{"/nix-cache-info", narinfo, nar} {
		f.Add([]byte("GET " + path + " HTTP/1.1\r\nHost: 127.0.0.1:6272\r\nUser-Agent: curl/7.82.0 Nix/2.8.0\r\n\r\n"))
		f.Add([]byte("HEAD " + path + " HTTP/1.1\r\nHost: evil.example\r\nOrigin: null\r\n\r\n"))
	}
	f.Add([]byte("GET " + nar + " HTTP/1.1\r\nHost: [::1]\r\nRange: bytes=100-\r\n\r\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(raw)))
		if err != nil {
			return
		}
		local := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 6272}
		rec := httptest.NewRecorder()
		s.ServeHTTP(rec, r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, local)))
		got := rec.Body.Bytes()
		if n := rec.Header().Get("Content-Length"); r.Method != http.MethodHead && n != fmt.Sprint(len(got)) {
			t.Errorf("%q: Content-Length is %s, but %d bytes follow", raw, n, len(got))
		}
		if r.Method == http.MethodHead && len(got) > 0 {
			t.Errorf("%q: answered with a body", raw)
		}
		switch rec.Code {
		case http.StatusNotFound, http.StatusForbidden:
		case http.StatusMethodNotAllowed:
			if r.Method == http.MethodGet || r.Method == http.MethodHead {
				t.Errorf("%q: 405", raw)
			}
		case http.StatusOK, http.StatusPartialContent:
			if _, ok := r.Header["Origin"]; ok || !isOwnHost(r.Host) ||
				!slices.Contains([]string{"/nix-cache-info", narinfo, nar}, r.URL.EscapedPath()) {
				t.Errorf("%q: %d", raw, rec.Code)
			}
			if r.URL.Path == nar && !bytes.Contains(narBytes, got) {
				t.Errorf("%q: bytes that are not the archive's", raw)
			}
		default:
			t.Errorf("%q: %d", raw, rec.Code)
		}
		for _, e := range logs.TakeAll() {
			t.Errorf("%q: logged %s %v", raw, e.Message, e.ContextMap())
		}
	})
}

// isOwnHost reports whether a Host header names this machine's loopback interface, at any port: ssh may forward it.
func isOwnHost(s string) bool {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		host, port = strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"), "80"
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return false
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return a.Unmap().WithZone("").IsLoopback()
	}
	return strings.EqualFold(strings.TrimSuffix(host, "."), "localhost")
}

// FuzzRange asks for a part of an archive, and compares the bytes with the range that the answer states.
func FuzzRange(f *testing.F) {
	s, _, nar, narBytes, _ := fuzzServer(f)
	f.Fuzz(func(t *testing.T, header string) {
		resp := do(s, "GET", nar, "Range", header)
		got, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		first, last := 0, len(narBytes)-1
		if resp.StatusCode == http.StatusPartialContent {
			var size int
			if _, err := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-%d/%d", &first, &last, &size); err != nil ||
				size != len(narBytes) {
				t.Fatalf("Range %q: Content-Range is %q, %v", header, resp.Header.Get("Content-Range"), err)
			}
		} else if resp.StatusCode != http.StatusOK {
			t.Fatalf("Range %q: %d", header, resp.StatusCode)
		}
		if first > last || last >= len(narBytes) || !bytes.Equal(got, narBytes[first:last+1]) {
			t.Errorf("Range %q: %d bytes which are not %d to %d of %d", header, len(got), first, last, len(narBytes))
		}
	})
}
