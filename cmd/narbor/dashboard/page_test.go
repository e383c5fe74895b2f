package dashboard_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"narbor/cmd/narbor/control"
	"narbor/cmd/narbor/dashboard"
	"narbor/narserve"
	"narbor/narserve/stats"
	"narbor/p2p"
	"narbor/p2p/netmon"
	"narbor/p2p/peers"
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
func evilFacts(names []string) dashboard.Facts {
	var f dashboard.Facts
	f.Version, f.ID, f.Sharing = "test", names[0], "signed"
	for _, name := range names {
		f.Neighbours = append(f.Neighbours, p2p.NeighbourStatus{ID: name, Name: name, Addr: name, Via: name})
		f.Banned = append(f.Banned, peers.Denied{ID: name, Reason: name, Until: time.Now()})
		f.Interfaces = append(f.Interfaces, netmon.InterfaceStatus{Name: name, Reason: name},
			netmon.InterfaceStatus{Name: name, Used: true})
		f.Upstreams = append(f.Upstreams, p2p.UpstreamStatus{URL: name, Down: true})
		f.Keys, f.ShareKeys, f.CacheDirs = append(f.Keys, name), append(f.ShareKeys, name), append(f.CacheDirs, name)
		f.Health = append(f.Health, control.Health{Code: "test", Severity: control.SeverityInfo, Title: name, Text: name, Fix: name,
			Command: name})
	}
	f.Alone = names[0]
	return f
}

// get returns the answer of a page to a request.
func get(t *testing.T, p *dashboard.Page, path string) narserve.Reply {
	t.Helper()
	a, err := p.Answer(httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
	if err != nil {
		t.Fatalf("GET %s: %v", path, err)
	}
	return a
}

func pageWith(facts dashboard.Facts) *dashboard.Page {
	return dashboard.New(func() dashboard.Facts { return facts }, stats.New())
}

func TestNamesStandBesideIDs(t *testing.T) {
	const id, other = "12D3KooWFDhBWRvmpzeKiaG5Ltzp3HTTA2Wk3RMc3EBm2ZDVKtYL", "12D3KooWLg7mVwJ9mGvxDAgkg2NBFXW2Us9Ygk8ZKwJPqPnWkUgR"
	var f dashboard.Facts
	f.Neighbours = []p2p.NeighbourStatus{{ID: id}, {ID: other}}
	if text := get(t, pageWith(f), "/").Text; strings.Contains(text, dashboard.NamesNote) {
		t.Error("the page has signs of names though no neighbour has one")
	}
	f.Neighbours[0].Name = "laptop-of-the-long-name"
	text := get(t, pageWith(f), "/").Text
	for _, want := range []string{`…2ZDVKtYL <span class="more">~laptop-of-the-l…</span>`, dashboard.NamesNote} {
		if !strings.Contains(text, want) {
			t.Errorf("the page does not have %s", want)
		}
	}
	names := dashboard.Names{id: "laptop"}
	if got := names.Of(id) + names.Of(other); got != "…2ZDVKtYL ~laptop…qPnWkUgR" {
		t.Errorf("the names are %s", got)
	}
}

// tag matches the beginning of an element.
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
		a := get(t, pageWith(evilFacts(names)), "/")
		if a.Status != http.StatusOK || !strings.HasPrefix(a.ContentType, "text/html") {
			t.Fatalf("GET / = %d, %s", a.Status, a.ContentType)
		}
		return a.Text, tag.FindAllString(a.Text, -1)
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
	for i := range facts.Neighbours {
		facts.Neighbours[i].Name = strings.Repeat("n", 63) // longer ones are dropped, and those with other signs
	}
	a := get(t, dashboard.New(func() dashboard.Facts { return facts }, accounts), "/")
	page := a.Text
	if len(page) > 80<<10 {
		t.Errorf("the page takes %d bytes, want 80 KiB at most", len(page))
	}
	t.Logf("%d bytes with 50 requests and %d neighbours", len(page), len(evilNames()))
	policy := a.Header["Content-Security-Policy"]
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
	p := pageWith(dashboard.Facts{})
	for _, path := range []string{"/", "/metrics", "/api/v1/status", "/healthz"} {
		a := get(t, p, path)
		for name, want := range map[string]string{"X-Frame-Options": "DENY", "X-Content-Type-Options": "nosniff",
			"Referrer-Policy":              "no-referrer",
			"Cross-Origin-Resource-Policy": "same-origin", "Cache-Control": "no-store", "Access-Control-Allow-Origin": ""} {
			if got := a.Header[name]; got != want {
				t.Errorf("%s: %s is %q, want %q", path, name, got, want)
			}
		}
		policy := a.Header["Content-Security-Policy"]
		for _, want := range []string{"default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'"} {
			if !strings.Contains(policy, want) || strings.Contains(policy, "unsafe") {
				t.Errorf("%s: Content-Security-Policy is %q, want %s in it", path, policy, want)
			}
		}
		if a.Status != http.StatusOK {
			t.Errorf("%s = %d", path, a.Status)
		}
	}
}

func TestStatusIsWhatItIsGiven(t *testing.T) {
	p := pageWith(dashboard.Facts{Status: control.Status{Schema: 1}})
	a := get(t, p, "/api/v1/status")
	var got map[string]any
	if err := json.Unmarshal([]byte(a.Text), &got); err != nil || got["schema"] != 1.0 || a.ContentType != "application/json" {
		t.Errorf("GET /api/v1/status = %s, %v", a.Text, err)
	}
	if a := get(t, p, "/healthz"); a.Text != "ok\n" {
		t.Errorf("GET /healthz = %q", a.Text)
	}
}

func TestPageCountsTheKindsOfPath(t *testing.T) {
	var facts dashboard.Facts
	facts.Kinds = []dashboard.ShareKind{{Kind: "of this kind", With: "these machines",
		KindCount: p2p.KindCount{Asked: 12345, Sent: 3 << 20}}}
	text := get(t, pageWith(facts), "/").Text
	for _, want := range []string{"of this kind", "these machines", "12\u00a0345", "3.0 MiB"} {
		if !strings.Contains(text, want) && !strings.Contains(text, strings.ReplaceAll(want, "\u00a0", " ")) {
			t.Errorf("the page does not have %q", want)
		}
	}
}
