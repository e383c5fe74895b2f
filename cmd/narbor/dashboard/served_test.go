package dashboard_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"narbor/cmd/narbor/dashboard"
	"narbor/narserve"
	"narbor/narserve/stats"
	"narbor/p2p"
	"narbor/store"
	"narbor/store/spool"
	"narbor/store/storetest"
	"narbor/trust/trusttest"
)

func startPage(t *testing.T, facts dashboard.Facts) (url string, srv *http.Server) {
	t.Helper()
	return startServer(t, narserve.Config{}, facts)
}

// startServer starts a server with a page that shows facts and the server's accounts.
func startServer(t *testing.T, cfg narserve.Config, facts dashboard.Facts) (url string, srv *http.Server) {
	t.Helper()
	if cfg.Accounts == nil {
		cfg.Accounts = stats.New()
	}
	cfg.Page = dashboard.New(func() dashboard.Facts { return facts }, cfg.Accounts)
	srv = narserve.New(cfg).HTTPServer()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); srv.Serve(l) }()
	t.Cleanup(func() { srv.Close(); <-done })
	return "http://" + l.Addr().String(), srv
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

// Whatever is beside the cache is for people on this machine: by its loopback names, and for no other page.
func TestPageIsForThisMachineAlone(t *testing.T) {
	url, _ := startPage(t, dashboard.Facts{})
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
	// The Page may ask for its own events, but for nothing that only Nix asks for.
	if resp, _ := getText(t, url+"/nix-cache-info", "Sec-Fetch-Site", "same-origin"); resp.StatusCode != http.StatusForbidden {
		t.Errorf("/nix-cache-info for a page = %s, want 403", resp.Status)
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
	url, _ := startServer(t, narserve.Config{Accounts: accounts}, dashboard.Facts{})
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
	accounts.Sent(trusttest.PathNamed(t, "program-1.0"), 1000, "peer", 500)
	for {
		if id, html := next(t, lines); id == "now" && strings.Contains(html, "program-1.0") {
			break
		}
	}
}

// Browsers do not keep narbor from ending, and it does not hold more of them than it means to.
func TestEventsAreBoundedAndEndWithTheServer(t *testing.T) {
	url, srv := startPage(t, dashboard.Facts{})
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

// A Page that is closed makes room for another.
func TestEventsOfClosedPagesEnd(t *testing.T) {
	url, _ := startPage(t, dashboard.Facts{})
	var open []*http.Response
	for range 16 {
		resp, _ := events(t, url)
		open = append(open, resp)
	}
	for _, resp := range open {
		resp.Body.Close()
	}
	for limit := time.Now().Add(storetest.AtMost(30 * time.Second)); ; time.Sleep(20 * time.Millisecond) {
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
	mem := new(store.Mem)
	nar, hash := storetest.RandomNAR(1, 1000)
	secret, keys := trusttest.NewKey(t, "test-1")
	info := trusttest.Sign(t, secret, store.Info{Path: trusttest.PathNamed(t, "secret-name"), NarHash: hash, NarSize: int64(len(nar))})
	mem.Add(info, nar)
	facts := evilFacts([]string{"<evil>"})
	for len(facts.Neighbours) < 41 {
		facts.Neighbours = append(facts.Neighbours, p2p.NeighbourStatus{ID: "<evil>", Via: "mdns"})
	}
	facts.Neighbours[0].Via = "mdns"
	facts.Rejected, facts.Bans = map[string]int64{"bad_signature": 3}, map[string]int64{"probing": 2}
	facts.Discovery = map[string]map[string]int64{"question": {"sent": 4}}
	facts.Spool.Verified, facts.Spool.VerifySeconds = 5, 1.5
	sp, err := spool.Open(spool.Config{Dir: t.TempDir(), MaxBytes: 256 << 20, MinFree: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sp.Close() })
	url, _ := startServer(t, narserve.Config{Sources: []narserve.Source{narserve.Local(mem, keys, sp)}, Keys: keys}, facts)
	hp := string(info.Path.HashPart())
	for path, status := range map[string]int{"/" + hp + ".narinfo": 200, "/nar/" + hp + "-" + info.NarHash.Base32() + ".nar": 200,
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
	for _, never := range []string{"<evil>", "secret-name", hp} {
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
