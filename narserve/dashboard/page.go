package dashboard

import (
	_ "embed"
	"html/template"
	"net/http"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"narbor/narserve/stats"
)

var (
	//go:embed page/page.html
	pageHTML string
	//go:embed page/page.css
	pageCSS string
	//go:embed page/page.js
	pageJS string
)

// sections are the parts of the page that change, by their IDs, each with a template of that name.
func sections() []string {
	return []string{"state", "saved", "update", "health", "now", "neighbours", "day", "month", "requests", "sharing", "network"}
}

// A Page answers requests of browsers, and of the programs that read its metrics and its JSON. Its methods may be
// called concurrently.
type Page struct {
	facts     func() Facts // nil: there is no page; returns at once, and may be called concurrently
	accounts  *stats.Accounts
	templates *template.Template
	header    map[string]string
	registry  *prometheus.Registry // of the metrics

	once    sync.Once     // closes stopped
	stopped chan struct{} // no stream goes on
	streams chan struct{} // holds one for each stream
}

// A Reply is the answer to a request. Stream writes it if that is not nil, and ends with the request; otherwise Text is
// all of it.
type Reply struct {
	Status      int
	ContentType string
	Text        string
	Header      map[string]string // further ones
	Stream      http.HandlerFunc
}

// Stop ends all streams, and keeps new ones from starting.
func (p *Page) Stop() { p.once.Do(func() { close(p.stopped) }) }
