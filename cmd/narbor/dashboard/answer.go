package dashboard

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"narbor/narserve"
	"narbor/narserve/stats"
	"narbor/store"
)

// New returns a page that shows facts and accounts.
func New(facts func() Facts, accounts *stats.Accounts) *Page {
	p := &Page{facts: facts, accounts: accounts, templates: template.Must(template.New("page").Funcs(pageFuncs()).Parse(pageHTML)),
		header: pageHeader(), registry: prometheus.NewRegistry(), stopped: make(chan struct{}), streams: make(chan struct{}, maxStreams)}
	p.Register(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collector{p})
	return p
}

// Register implements [narserve.Page].
func (p *Page) Register(metrics ...prometheus.Collector) { p.registry.MustRegister(metrics...) }

// pageHeader restricts the page in case hostile text gets into it: only its own script and style run (they are listed
// by hash), it connects only to its own origin, and no other page can read or frame it.
func pageHeader() map[string]string {
	hash := func(text string) string {
		sum := sha256.Sum256([]byte(text))
		return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
	}
	return map[string]string{
		"Content-Security-Policy": "default-src 'none'; script-src " + hash(pageJS) + "; style-src " + hash(pageCSS) +
			"; img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
		"X-Frame-Options":              "DENY",
		"X-Content-Type-Options":       "nosniff",
		"Referrer-Policy":              "no-referrer",
		"Cross-Origin-Resource-Policy": "same-origin",
		"Cross-Origin-Opener-Policy":   "same-origin",
		"Cache-Control":                "no-store",
	}
}

// Answer implements [narserve.Page].
func (p *Page) Answer(r *http.Request) (narserve.Reply, error) {
	a := narserve.Reply{Status: http.StatusOK, Header: p.header, ContentType: "text/plain; charset=utf-8"}
	var err error
	switch path := r.URL.Path; {
	case path == "/":
		a.ContentType = "text/html; charset=utf-8"
		a.Text, err = p.render("page", p.view())
	case path == "/events" && r.Method == http.MethodGet:
		return p.stream(a), nil
	case path == "/api/v1/status":
		a.ContentType = "application/json"
		var text []byte
		text, err = json.MarshalIndent(p.facts().Status, "", "  ")
		a.Text = string(text) + "\n"
	case path == "/metrics":
		a.ContentType = "text/plain; version=0.0.4; charset=utf-8"
		a.Text, err = p.metrics()
	case path == "/healthz":
		a.Text = "ok\n"
	default:
		err = fmt.Errorf("%.80q: %w", path, store.ErrNotFound)
	}
	return a, err
}
