package dashboard

import (
	_ "embed"
	"html/template"
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

// A Page answers requests of browsers, and of the programs that read its metrics and its JSON. It implements
// [narserve.Page].
type Page struct {
	facts     func() Facts // returns at once, and may be called concurrently
	accounts  *stats.Accounts
	templates *template.Template
	header    map[string]string
	registry  *prometheus.Registry // of the metrics

	once    sync.Once     // closes stopped
	stopped chan struct{} // no stream goes on
	streams chan struct{} // holds one for each stream
}

// Stop implements [narserve.Page].
func (p *Page) Stop() { p.once.Do(func() { close(p.stopped) }) }
