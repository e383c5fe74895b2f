package narserve_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"narbor/narserve"
	"narbor/narserve/stats"
)

// evilNames are what a neighbour may want a page to show.
func evilNames() []string {
	names := []string{
		`<script>alert(1)</script>`, `"><script>alert(1)</script>`, `'><img src=x onerror=alert(1)>`, `<img src="http://evil/">`,
		`</title><script>alert(1)</script>`,
		`</style><script>alert(1)</script>`, `</script><script>alert(1)</script>`, `<svg onload=alert(1)>`, `<svg/onload=alert(1)//`,
		`<iframe src="javascript:alert(1)">`,
		`<a href="javascript:alert(1)">x</a>`, `javascript:alert(1)`, `" onmouseover="alert(1)`, `' onfocus='alert(1)' autofocus='`,
		"` onmouseover=alert(1) `",
		`<body onload=alert(1)>`, `<base href="http://evil/">`, `<meta http-equiv="refresh" content="0;url=http://evil/">`,
		`<link rel=stylesheet href=http://evil/>`, `<style>@import "http://evil/";</style>`,
		`<form action="http://evil/"><input>`, `<object data="http://evil/">`, `<embed src="http://evil/">`,
		`<math href="javascript:alert(1)">`, `<!--<script>alert(1)</script>-->`,
		`<![CDATA[<script>alert(1)</script>]]>`, `&lt;script&gt;alert(1)&lt;/script&gt;`, `&#60;script&#62;`,
		`%3Cscript%3Ealert(1)%3C/script%3E`, `<script>alert(1)</script>`,
		"\x00<script>alert(1)</script>", "<scr\x00ipt>alert(1)</script>", "\xff\xfe<script>", "a\r\n\r\n<script>alert(1)</script>",
		"data: <script>\n\ndata: x",
		`{{.Facts}}{{template "page" .}}`, `${alert(1)}`, "\u202e<script>\u202c", strings.Repeat("<b>", 200),
		`<details open ontoggle=alert(1)>`, `<template><script>alert(1)</script></template>`,
	}
	return names
}

// evilFacts has a name wherever a neighbour could have put one.
func evilFacts(names []string) narserve.Facts {
	f := narserve.Facts{Version: "test", Started: time.Now(), ID: names[0],
		Status: map[string]any{"schema": 1, "names": names}}
	for _, name := range names {
		f.Neighbours = append(f.Neighbours, narserve.Neighbour{ID: name, Addr: name, Via: name, Since: time.Now()})
		f.Banned = append(f.Banned, narserve.Banned{ID: name, Reason: name, Until: time.Now()})
		f.Interfaces = append(f.Interfaces, narserve.Interface{Name: name, Reason: name}, narserve.Interface{Name: name, Used: true})
		f.Upstreams = append(f.Upstreams, narserve.UpstreamUse{URL: name, Down: true})
		f.Keys, f.ShareKeys, f.ShareFrom = append(f.Keys, name), append(f.ShareKeys, name), append(f.ShareFrom, name)
		f.Health = append(f.Health, narserve.Health{Code: "test", Severity: narserve.SeverityInfo, Title: name, Text: name, Fix: name,
			Command: name})
	}
	f.Alone, f.Sharing = names[0], true
	return f
}

func startPage(t *testing.T, facts narserve.Facts) (url string, srv *http.Server) {
	t.Helper()
	s := narserve.New(narserve.Config{Facts: func() narserve.Facts { return facts }})
	srv = s.HTTPServer()
	return "http://" + serve(t, srv), srv
}

func getText(t *testing.T, url string, header ...string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			r.Host = header[i+1]
		} else {
			r.Header.Set(header[i], header[i+1])
		}
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(text)
}

// tags are all that the page may begin with a "<", whatever is in it.
var tag = regexp.MustCompile(`<(!doctype|/?[a-z0-9]+)`)

func TestPageEscapesWhatNeighboursSay(t *testing.T) {
	names := evilNames()
	if len(names) < 40 {
		t.Fatalf("%d names", len(names))
	}
	mild := make([]string, len(names))
	for i := range mild {
		mild[i] = fmt.Sprintf("name %d", i)
	}
	shape := func(names []string) (text string, tags []string) {
		url, _ := startPage(t, evilFacts(names))
		resp, text := getText(t, url+"/")
		if resp.StatusCode != http.StatusOK || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html") {
			t.Fatalf("GET / = %s, %s", resp.Status, resp.Header)
		}
		return text, tag.FindAllString(text, -1)
	}
	text, got := shape(names)
	_, want := shape(mild)
	if strings.Join(got, "") != strings.Join(want, "") {
		t.Errorf("names have become elements: %d of them, want %d", len(got), len(want))
	}
	for _, name := range names {
		if strings.ContainsAny(name, "<>") && strings.Contains(text, name) {
			t.Errorf("the page has %.60q as it is", name)
		}
	}
	attributes := regexp.MustCompile(`\s(on[a-z]+|style|src|action)=`)
	for _, element := range regexp.MustCompile(`<[a-z][^>]*>`).FindAllString(text, -1) {
		if bare := regexp.MustCompile(`"[^"]*"`).ReplaceAllString(element, `""`); attributes.MatchString(bare) {
			t.Errorf("an element has an attribute that no element of the page has: %s", element)
		}
	}
}

func TestPageIsSmallAndItsHashesAreRight(t *testing.T) {
	account := stats.Account{Schema: 1}
	peers := strings.Split(strings.TrimSpace(strings.Repeat("12D3KooWGzxzKZYveHXtpG6AsrUJBcWxHBFS2HsEoGTxrMLvKXtf ", 8)), " ")
	for range 50 {
		account.Requests = append(account.Requests, stats.Request{Path: strings.Repeat("a", 32) + "-" + strings.Repeat("n", 40),
			Result: "hit",
			Reason: strings.Repeat("r", 60), Count: 1000, Bytes: 1, From: peers})
	}
	text, err := json.Marshal(account)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "account.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	accounts, err := stats.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	names := evilNames()
	for i, name := range names {
		names[i] = name[:min(len(name), 52)] // as long as a peer ID
	}
	facts := evilFacts(names)
	facts.Health = facts.Health[:10] // as many as there are
	url := "http://" + startServer(t, narserve.New(narserve.Config{Accounts: accounts, Facts: func() narserve.Facts { return facts }}))
	resp, page := getText(t, url+"/")
	if len(page) > 80<<10 {
		t.Errorf("the page takes %d bytes, want 80 KiB at most", len(page))
	}
	t.Logf("%d bytes with 50 requests and %d neighbours", len(page), len(evilNames()))
	policy := resp.Header.Get("Content-Security-Policy")
	for _, kind := range []string{"script", "style"} {
		body := regexp.MustCompile(`(?s)<`+kind+`>(.*?)</`+kind+`>`).FindAllStringSubmatch(page, -1)
		if len(body) != 1 {
			t.Errorf("%d elements %s, want 1", len(body), kind)
			continue
		}
		sum := sha256.Sum256([]byte(body[0][1]))
		if want := kind + "-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"; !strings.Contains(policy, want) {
			t.Errorf("Content-Security-Policy is %s, want %s in it", policy, want)
		}
	}
	if urls := regexp.MustCompile(`(?i)(src|href)="(https?:)?//`).FindAllString(page, -1); urls != nil {
		t.Errorf("the page has assets elsewhere: %s", urls)
	}
}

func TestPageHeaders(t *testing.T) {
	url, _ := startPage(t, narserve.Facts{Status: map[string]int{"schema": 1}})
	for _, path := range []string{"/", "/metrics", "/api/v1/status", "/healthz"} {
		resp, _ := getText(t, url+path)
		for name, want := range map[string]string{"X-Frame-Options": "DENY", "X-Content-Type-Options": "nosniff",
			"Referrer-Policy":              "no-referrer",
			"Cross-Origin-Resource-Policy": "same-origin", "Cache-Control": "no-store", "Access-Control-Allow-Origin": ""} {
			if got := resp.Header.Get(name); got != want {
				t.Errorf("%s: %s is %q, want %q", path, name, got, want)
			}
		}
		policy := resp.Header.Get("Content-Security-Policy")
		for _, want := range []string{"default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'"} {
			if !strings.Contains(policy, want) || strings.Contains(policy, "unsafe") {
				t.Errorf("%s: Content-Security-Policy is %q, want %s in it", path, policy, want)
			}
		}
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s = %s", path, resp.Status)
		}
	}
}

// Whatever is beside the cache is for people on this machine: by its loopback names, and for no other page.
func TestPageIsForThisMachineAlone(t *testing.T) {
	url, _ := startPage(t, narserve.Facts{})
	port := url[strings.LastIndexByte(url, ':'):]
	for _, path := range []string{"/", "/events", "/metrics", "/api/v1/status", "/healthz"} {
		for _, c := range []struct {
			status int
			header []string
		}{
			{403, []string{"Host", "evil.example" + port}}, {403, []string{"Host", "10.0.2.2" + port}},
			{403, []string{"Host", "192.168.1.5" + port}},
			{200, []string{"Host", "127.0.0.1:1"}}, {200, []string{"Host", "127.0.0.1"}}, {403, []string{"Host", "127.0.0.1:0"}},
			{403, []string{"Host", "localhost.evil.example" + port}},
			{403, []string{"Origin", "http://evil.example"}}, {403, []string{"Origin", url}},
			{403, []string{"Referer", "http://evil.example/"}},
			{403, []string{"Sec-Fetch-Site", "cross-site"}}, {403, []string{"Sec-Fetch-Site", "same-site"}},
			{200, nil}, {200, []string{"Host", "localhost" + port}}, {200, []string{"Host", "[::1]" + port}},
			{200, []string{"Sec-Fetch-Site", "none"}},
			{200, []string{"Sec-Fetch-Site", "same-origin"}},
		} {
			ctx, cancel := context.WithCancel(t.Context())
			r, err := http.NewRequestWithContext(ctx, http.MethodGet, url+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			for i := 0; i < len(c.header); i += 2 {
				r.Header.Set(c.header[i], c.header[i+1])
			}
			if host := r.Header.Get("Host"); host != "" {
				r.Host = host
			}
			resp, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			cancel()
			if resp.StatusCode != c.status {
				t.Errorf("%s with %q = %s, want %d", path, c.header, resp.Status, c.status)
			}
		}
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+path, strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		if resp, err := http.DefaultClient.Do(r); err != nil || resp.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("POST %s = %v, %v; want 405", path, resp, err)
		} else {
			resp.Body.Close()
		}
	}
	// The page may ask for its own events, but for nothing that only Nix asks for.
	if resp, _ := getText(t, url+"/nix-cache-info", "Sec-Fetch-Site", "same-origin"); resp.StatusCode != http.StatusForbidden {
		t.Errorf("/nix-cache-info for a page = %s, want 403", resp.Status)
	}
}

func TestWithoutFactsThereIsNoPage(t *testing.T) {
	url := "http://" + startServer(t, narserve.New(narserve.Config{}))
	for _, path := range []string{"/", "/events", "/metrics", "/api/v1/status", "/healthz"} {
		if resp, _ := getText(t, url+path); resp.StatusCode != http.StatusNotFound {
			t.Errorf("GET %s = %s, want 404", path, resp.Status)
		}
	}
}

// events opens a stream of events and returns its lines.
func events(t *testing.T, url string) (resp *http.Response, lines *bufio.Scanner) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp, err = http.DefaultClient.Do(r); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	lines = bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	return resp, lines
}

// next returns the next section that has changed.
func next(t *testing.T, lines *bufio.Scanner) (id, html string) {
	t.Helper()
	for lines.Scan() {
		if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
			var e struct{ ID, HTML string }
			if err := json.Unmarshal([]byte(data), &e); err != nil {
				t.Fatalf("%q: %v", data, err)
			}
			return e.ID, e.HTML
		}
	}
	t.Fatalf("the stream ends: %v", lines.Err())
	return "", ""
}

func TestEventsBringWhatChanges(t *testing.T) {
	accounts := stats.New()
	url := "http://" + startServer(t, narserve.New(narserve.Config{Accounts: accounts,
		Facts: func() narserve.Facts { return narserve.Facts{} }}))
	resp, lines := events(t, url)
	if got := resp.Header.Get("Content-Type"); got != "text/event-stream" {
		t.Errorf("Content-Type is %s", got)
	}
	_, page := getText(t, url+"/")
	for range 9 {
		if id, html := next(t, lines); !strings.Contains(page, html) || !strings.Contains(page, `id="`+id+`"`) {
			t.Errorf("section %s is not as it is in the page: %s", id, html)
		}
	}
	w := newWorld(t)
	info, _ := w.info(t, "program-1.0", 1000)
	accounts.Sent(info.Path, info.NarSize, "peer", 500)
	for {
		if id, html := next(t, lines); id == "now" && strings.Contains(html, "program-1.0") {
			break
		}
	}
}

// Browsers do not keep narbor from ending, and it does not hold more of them than it means to.
func TestEventsAreBoundedAndEndWithTheServer(t *testing.T) {
	url, srv := startPage(t, narserve.Facts{})
	var streams []*bufio.Scanner
	for i := range 20 {
		resp, lines := events(t, url)
		want := http.StatusOK
		if i >= 16 {
			want = http.StatusTooManyRequests
		}
		if resp.StatusCode != want {
			t.Errorf("stream %d = %s, want %d", i, resp.Status, want)
		}
		if want == http.StatusOK {
			next(t, lines)
			streams = append(streams, lines)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := srv.Shutdown(ctx); err != nil {
		srv.Close()
		t.Fatalf("Shutdown = %v", err)
	}
	for _, lines := range streams {
		for lines.Scan() {
		}
	}
}

// A page that is closed makes room for another.
func TestEventsOfClosedPagesEnd(t *testing.T) {
	url, _ := startPage(t, narserve.Facts{})
	var open []*http.Response
	for range 16 {
		resp, _ := events(t, url)
		open = append(open, resp)
	}
	for _, resp := range open {
		resp.Body.Close()
	}
	for limit := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		resp, _ := events(t, url)
		resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			break
		}
		if time.Now().After(limit) {
			t.Fatal("closed pages keep their streams")
		}
	}
}

// The metrics are what Prometheus reads, and no label has a value that a neighbour or a path could choose.
func TestMetricsAreBounded(t *testing.T) {
	w := newWorld(t)
	info, _ := w.add(t, "secret-name", 1000)
	facts := evilFacts(evilNames())
	for i := range facts.Neighbours {
		facts.Neighbours[i].Via = "mdns"
	}
	facts.Rejected, facts.Bans = map[string]int64{"bad_signature": 3}, map[string]int64{"probing": 2}
	facts.Discovery = map[string]map[string]int64{"question": {"sent": 4}}
	facts.Spool.Verified, facts.Spool.VerifyTime = 5, 1500*time.Millisecond
	url := "http://" + startServer(t, narserve.New(narserve.Config{Sources: []narserve.Source{w.local()}, Keys: w.keys,
		Facts: func() narserve.Facts { return facts }}))
	for path, status := range map[string]int{"/" + string(info.Path.HashPart()) + ".narinfo": 200, narPath(info): 200,
		"/" + strings.Repeat("0", 32) + ".narinfo": 404, "/favicon.ico": 404} {
		if resp, _ := getText(t, url+path); resp.StatusCode != status {
			t.Errorf("GET %s = %s", path, resp.Status)
		}
	}
	_, text := getText(t, url+"/metrics")
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	for name, want := range map[string]float64{`narbor_narinfo_total{result="hit"}`: 1, `narbor_narinfo_total{result="miss"}`: 1,
		"narbor_nars_total": 1,
		`narbor_nar_bytes_total{direction="in",source="store"}`: float64(info.NarSize), "narbor_saved_bytes_total": 0,
		`narbor_rejected_total{reason="bad_signature"}`: 3, `narbor_peer_bans_total{reason="probing"}`: 2,
		`narbor_discovery_packets_total{kind="question",result="sent"}`: 4, "narbor_verify_seconds_sum": 1.5,
		"narbor_verify_seconds_count":                5,
		`narbor_peers{state="connected",via="mdns"}`: 41, "narbor_unverified_bytes_served_total": 0,
		`narbor_http_requests_total{code="200",route="nar"}`:   1,
		`narbor_http_requests_total{code="404",route="other"}`: 1, `narbor_health{code="test",severity="info"}`: 1} {
		if line := fmt.Sprintf("%s %v\n", name, want); !strings.Contains(text, line) {
			t.Errorf("the metrics have no %s", line)
		}
	}
	for _, never := range append(evilNames(), "secret-name", string(info.Path.HashPart())) {
		if strings.Contains(text, never) {
			t.Errorf("the metrics have %.40q", never)
		}
	}
	series := 0
	for _, f := range families {
		series += len(f.GetMetric())
	}
	if series > 150 {
		t.Errorf("%d series, want 150 at most", series)
	}
}

func TestStatusIsWhatItIsGiven(t *testing.T) {
	url, _ := startPage(t, narserve.Facts{Status: map[string]any{"schema": 1, "neighbours": []string{}}})
	resp, text := getText(t, url+"/api/v1/status")
	var got map[string]any
	if err := json.Unmarshal([]byte(text), &got); err != nil || got["schema"] != 1.0 ||
		resp.Header.Get("Content-Type") != "application/json" {
		t.Errorf("GET /api/v1/status = %s, %v", text, err)
	}
	if _, text := getText(t, url+"/healthz"); text != "ok\n" {
		t.Errorf("GET /healthz = %q", text)
	}
}
