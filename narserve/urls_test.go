package narserve_test

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"narbor/narserve"
	"narbor/store"
)

// strangeURLs are those that no honest client asks for, made around a path that is there.
func strangeURLs(info store.Info) []string {
	hp, hash := string(info.Path.HashPart()), info.NarHash.Base32()
	nar, narinfo := narPath(info), narinfoPath(info)
	urls := []string{
		"/", "//", "///", "/.", "/..", "/%2e", "/%2e%2e", "/%2f", "/%5c", "/\\", "/%00", "/?", "/*", "/~root", "/%ff%fe", "/%c0%af",
		"/%c0%ae%c0%ae/etc/passwd",
		"/%2e%2e/%2e%2e/etc/passwd", "/../../etc/passwd", "/..%2f..%2fetc%2fpasswd", "/%252e%252e/etc/passwd", "/..\\..\\etc\\passwd",
		"/etc/passwd",
		"/..;/..;/etc/passwd", "/....//....//etc/passwd", "/proc/self/environ", "/C:/Windows/win.ini", "/file:///etc/passwd",
		"/" + strings.Repeat("../", 2000) + "etc/passwd",
		"/narinfo", "/.narinfo", "/%00.narinfo", "/*.narinfo", "/..narinfo", "/../.narinfo", "/nix-cache-info.narinfo", "/ .narinfo",
		"/%20.narinfo",
		"/" + hp, "/" + hp + ".ls", "/" + hp + ".NARINFO", "/" + hp + "narinfo", "/" + hp + "%2enarinfo", "/" + hp + "%2Enarinfo",
		"/" + hp + "..narinfo",
		"/" + hp[:31] + ".narinfo", "/" + hp + "0.narinfo", "/" + hp[:31] + "%65.narinfo", "/" + hp[:31] + "\u0430.narinfo",
		"/" + hp[:31] + "\uff10.narinfo",
		"/" + hp + "-hello.narinfo", "/" + hp + hp + ".narinfo", "/" + strings.Repeat("0", 10000) + ".narinfo",
		"/" + strings.Repeat("a/", 5000) + ".narinfo",
		"/nar", "/nar/", "/nar//", "/nar/.", "/nar/..", "/nar/.nar", "/nar/-.nar", "/nar/--.nar", "/nar/*", "/nar/../.narinfo",
		"/nar/../etc/passwd", "/nar/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
		"/nar/" + hp + ".nar", "/nar/" + hash + ".nar", "/nar/" + hp + "-.nar", "/nar/-" + hash + ".nar",
		"/nar/" + hash + "-" + hp + ".nar",
		strings.TrimSuffix(nar, ".nar"), nar + ".xz", nar + ".nar", "/nar/." + nar[4:], "/nar/x/.." + nar[4:], "/nar%2f" + nar[5:],
		"/nar/%2e%2f" + nar[5:], "/nar" + narinfo, "/NAR" + nar[4:],
		strings.Replace(nar, "-", "--", 1), strings.Replace(nar, "-", "%2d", 1), strings.Replace(nar, "-", "/", 1),
		strings.Replace(nar, "-", "", 1), strings.Replace(nar, "-", "_", 1),
		"/nar/" + hp + "-sha256:" + hash + ".nar", "/nar/" + hp + "-sha256-" + hash + ".nar",
		"/nar/" + hp + "-" + strings.Repeat("z", 52) + ".nar",
		"/nar/" + hp + "-" + hash[:51] + ".nar", "/nar/" + hp + "-" + hash + "0.nar",
		"/nar/" + hp + "-" + info.NarHash.CID().Hash().HexString()[4:] + ".nar",
		"/nar/" + hp + "-" + strings.ToUpper(hash) + ".nar", "/nar/" + strings.ToUpper(hp) + "-" + hash + ".nar",
		"/nar/" + hp + "-" + hash + "-" + hash + ".nar",
		"/nar/" + hp + "-" + hash + ".narinfo", "/nar/" + hp + "-" + strings.Repeat("0", 52) + ".nar",
		"/nar/" + strings.Repeat("0", 32) + "-" + hash + ".nar",
		"/nar/" + hp + "-" + info.NarHash.CID().String() + ".nar", "/" + hash + ".nar", "/nar/" + strings.Repeat("-", 85) + ".nar",
		"/nar/" + strings.Repeat("n", 15000),
		"/log/x.drv", "/realisations/sha256:0!out.doi", "/debuginfo/00", "/index.html", "/metrics", "/debug/pprof/", "/status",
		"/favicon.ico", "/robots.txt", "/.git/config",
		"/nix-cache-inf", "/nix-cache-info2", "/nix_cache_info", "/nix/store/" + info.Path.Base(), info.Path.Base(),
		"/\u202enix-cache-info", "/nix/store", "/nix/var/nix/db/db.sqlite",
	}
	for i, alien := range "eoutEOUT!@:~+=,'()$&[]{}|^`<>\"" { // nix32 has no e, o, u or t
		urls = append(urls, fmt.Sprintf("/%s%c%s.narinfo", hp[:i], alien, hp[i+1:]))
	}
	for _, good := range []string{"/nix-cache-info", narinfo, nar} {
		escaped := "/%" + strconv.FormatInt(int64(good[1]), 16) + good[2:]
		urls = append(urls, "/"+good, "//"+good, "/."+good, "/.."+good, "/x/.."+good, "/x/%2e%2e"+good, "/%2e"+good, "/%2f"+good,
			"/%2F"+good[1:], "/%5c"+good[1:],
			"/\\"+good[1:], "/%00"+good, "/%0d%0a"+good[1:], "/%20"+good[1:], "/\ufeff"+good[1:], escaped, "/%25"+escaped[2:],
			strings.ToUpper(good), good+"/", good+"//", good+"/.",
			good+"/..", good+"/x/..", good+"%00", good+"%00.narinfo", good+"%0a", good+"%20", good+".", good+"%2e", good+"%2f", good+"\\",
			good+";x", good+";", good+"#", good+"#x",
			good+"?", good+"?x=y", good+"?"+good, good+"%3f", good+"&x", good+"~", good+"\u0301", good+"\u200b", good+".narinfo",
			good+".nar", "/"+strings.Repeat("x/../", 500)+good[1:])
	}
	return urls
}

// TestStrangeURLs speaks to a real server in raw bytes, as no client library would.
func TestStrangeURLs(t *testing.T) {
	w := newWorld(t)
	info, _ := w.add(t, "hello", 5000)
	src := &probe{inner: w.local()}
	addr := startServer(t, narserve.New(narserve.Config{Sources: []narserve.Source{src}, Keys: w.keys}))
	urls := strangeURLs(info)
	for _, url := range urls {
		want := http.StatusNotFound
		if url[0] != '/' || strings.ContainsAny(url, " \x00") { // net/http refuses them before anything here sees them
			want = http.StatusBadRequest
		}
		resp, text := answerTo(t, addr, "GET "+url+" HTTP/1.1\r\nHost: "+addr+"\r\nConnection: close\r\n\r\n")
		if resp == nil {
			continue
		}
		wantStatus(t, fmt.Sprintf("GET %.200q", url), resp, want)
		if want == http.StatusNotFound && text != "not found\n" {
			t.Errorf("GET %.200q says %.200q", url, text)
		}
	}
	if n := src.fetched.Load(); len(urls) < 200 || n != 0 {
		t.Errorf("%d URLs, want 200 at least, fetched %d NARs, want none", len(urls), n)
	}
}

// TestStrangeRequests are answered by net/http or by us, and never with a path that is there.
func TestStrangeRequests(t *testing.T) {
	addr := startServer(t, narserve.New(narserve.Config{}))
	const url = "/nix-cache-info"
	host := "Host: " + addr + "\r\n"
	for request, want := range map[string]int{
		"GET /%zz HTTP/1.1\r\n" + host + "\r\n":                                                  400,
		"GET /% HTTP/1.1\r\n" + host + "\r\n":                                                    400,
		"GET /\x00 HTTP/1.1\r\n" + host + "\r\n":                                                 400,
		"GET /\x7f HTTP/1.1\r\n" + host + "\r\n":                                                 400,
		"GET /\tx HTTP/1.1\r\n" + host + "\r\n":                                                  400,
		"GET nix-cache-info HTTP/1.1\r\n" + host + "\r\n":                                        400,
		"GET  HTTP/1.1\r\n" + host + "\r\n":                                                      400,
		"GET\t" + url + " HTTP/1.1\r\n" + host + "\r\n":                                          400,
		"G\x00T " + url + " HTTP/1.1\r\n" + host + "\r\n":                                        400,
		"G(T " + url + " HTTP/1.1\r\n" + host + "\r\n":                                           400,
		"GET " + url + "\r\n\r\n":                                                                400,
		"GET " + url + " HTTP/1.1 x\r\n" + host + "\r\n":                                         400,
		"GET " + url + " HTTP/1\r\n" + host + "\r\n":                                             400,
		"GET " + url + " http/1.1\r\n" + host + "\r\n":                                           400,
		"GET " + url + " HTTP/1.10\r\n" + host + "\r\n":                                          400,
		"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n":                                   400,
		"GET * HTTP/1.1\r\n" + host + "Connection: close\r\n\r\n":                                404,
		"GET " + url + " HTTP/1.0\r\n\r\n":                                                       403,
		"GET " + url + " HTTP/1.0\r\n" + host + "\r\n":                                           200,
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n":                                                       403,
		"OPTIONS * HTTP/1.1\r\n" + host + "Connection: close\r\n\r\n":                            405,
		"CONNECT " + addr + " HTTP/1.1\r\n" + host + "Connection: close\r\n\r\n":                 405,
		"TRACE " + url + " HTTP/1.1\r\n" + host + "Connection: close\r\n\r\n":                    405,
		"get " + url + " HTTP/1.1\r\n" + host + "Connection: close\r\n\r\n":                      405,
		"GET " + url + " HTTP/1.1\r\n" + host + "Upgrade: h2c\r\nConnection: close\r\n\r\n":      200,
		"GET /" + strings.Repeat("0", 64<<10) + " HTTP/1.1\r\n" + host + "\r\n":                  431,
		"GET " + url + "?" + strings.Repeat("0", 64<<10) + " HTTP/1.1\r\n" + host + "\r\n":       431,
		"GET " + url + " HTTP/1.1\r\n" + host + "X: " + strings.Repeat("y", 64<<10) + "\r\n\r\n": 431,
		"GET " + url + " HTTP/1.1\r\n" + host + strings.Repeat("X: y\r\n", 10<<10) + "\r\n":      431,
		strings.Repeat("G", 64<<10) + " " + url + " HTTP/1.1\r\n" + host + "\r\n":                431,
	} {
		resp, text := answerTo(t, addr, request)
		if resp == nil {
			continue
		}
		wantStatus(t, fmt.Sprintf("%.100q", request), resp, want)
		if want != 200 && strings.Contains(text, "StoreDir") || !resp.Close {
			t.Errorf("%.100q: says %q, closes the connection: %t", request, text, resp.Close)
		}
	}
}
