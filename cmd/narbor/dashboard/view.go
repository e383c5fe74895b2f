package dashboard

import (
	"bytes"
	"fmt"
	"html/template"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"narbor/cmd/narbor/control"
	"narbor/narserve/stats"
	"narbor/p2p"
	"narbor/p2p/netmon"
	"narbor/store"
)

// maxRows bounds the neighbours that the page shows, maxBans those that are banned, and maxUnused the interfaces that
// are not used, so that it stays small on the largest network.
const maxRows, maxBans, maxUnused = 40, 8, 16

// A view is all that the page shows, at a moment.
type view struct {
	Facts
	stats.Account

	Month stats.Amounts
	graph
	MonthGraph graph
	In, Out    []stats.Transfer
	More       int // neighbours not shown
	Away       []stats.Share
	Used       []netmon.InterfaceStatus
	Unused     []netmon.InterfaceStatus
	names      Names
}

// A graph shows the bytes of the last 24 hours, or of the last 30 days.
type graph struct {
	Day   stats.Amounts // of all its bars
	Bars  []bar
	Top   string // the value of the highest bar
	Depth int    // how far down bars go
}

// A bar is a quarter of an hour, or a day, in the graph: the heights above and below its axis, in its units.
type bar struct {
	X, Own, Saved, Sent int
	Y, OwnY             int // tops of what was saved, and of the rest above it
}

// graphHeight is how many units the highest bar has.
const graphHeight = 64

func (p *Page) view() view {
	v := view{Facts: p.facts(), Account: p.accounts.Account()}
	v.names = NamesOf(v.Status)
	v.Month = v.Sum(monthDays)
	var times []stats.Amounts
	for _, q := range v.Quarters {
		times = append(times, q.Amounts)
	}
	v.graph, v.MonthGraph = draw(times), draw(lastDays(v.Days, monthDays, time.Now()))
	for i, r := range v.Requests {
		v.Requests[i].From = r.From[:min(len(r.From), 3)]
	}
	for _, t := range v.Now {
		if t.Incoming {
			v.In = append(v.In, t)
		} else {
			v.Out = append(v.Out, t)
		}
	}
	v.Away = v.Account.Away(func(id string) bool {
		return slices.ContainsFunc(v.Neighbours, func(n p2p.NeighbourStatus) bool { return n.ID == id })
	}, time.Now())
	if v.More = max(0, len(v.Neighbours)-maxRows); v.More > 0 {
		v.Neighbours = v.Neighbours[:maxRows]
	}
	v.Banned = v.Banned[:min(len(v.Banned), maxBans)]
	for _, i := range v.Interfaces {
		if i.Used && len(v.Used) < maxRows {
			v.Used = append(v.Used, i)
		} else if !i.Used && i.Reason != "loopback" && len(v.Unused) < maxUnused {
			v.Unused = append(v.Unused, i)
		}
	}
	return v
}

// monthDays are the days of the larger graph, and of the figures at the top.
const monthDays = 30

// lastDays returns what passed on each of the last n days, today included. Days without an account are empty.
func lastDays(days []stats.Day, n int, now time.Time) []stats.Amounts {
	byDate := make(map[string]stats.Amounts, len(days))
	for _, d := range days {
		byDate[d.Date] = d.Amounts
	}
	list := make([]stats.Amounts, n)
	for i := range list {
		list[i] = byDate[now.AddDate(0, 0, i+1-n).Format(time.DateOnly)]
	}
	return list
}

func draw(times []stats.Amounts) (g graph) {
	highest := int64(1)
	for _, q := range times {
		g.Day.Add(q)
		highest = max(highest, q.SavedOf(), q.Sent)
	}
	height := func(n int64) int {
		if n == 0 {
			return 0
		}
		return max(1, int(math.Round(float64(n)/float64(highest)*graphHeight)))
	}
	for i, q := range times {
		b := bar{X: 10 * i, Saved: height(q.Saved()), Own: height(q.SavedOf() - q.Saved()), Sent: height(q.Sent)}
		b.Y = graphHeight - b.Saved
		b.OwnY = b.Y - b.Own
		g.Bars = append(g.Bars, b)
		g.Depth = max(g.Depth, b.Sent)
	}
	g.Top = Amount(highest)
	return g
}

// Percent is how much of what Nix needed in the last 30 days came from the network, rounded down: all is all.
func (v view) Percent() int64 { return percent(v.Month.Saved(), v.Month.SavedOf()) }

// InternetBytes is what came from the internet in the last 30 days, at least; DayInternet in the last 24 hours.
func (v view) InternetBytes() int64 { return v.Month.SavedOf() - v.Month.Saved() }

// DayInternet is the same for the last 24 hours.
func (v view) DayInternet() int64 { return v.Day.SavedOf() - v.Day.Saved() }

// Cooperative reports whether the page distinguishes NARs that neighbours have from those that they download for this
// machine.
func (v view) Cooperative() bool {
	return len(v.Upstreams) > 0 || v.ByOthers()+v.ByNarbor() > 0
}

// ByOthers returns the bytes that neighbours have downloaded for this machine in the last 30 days.
func (v view) ByOthers() int64 { return v.Month.Received[store.FromOthers] }

// Rebuilt returns the bytes that were rebuilt from other versions of their paths on this machine in the last 30 days.
func (v view) Rebuilt() int64 { return v.Month.Received[store.FromRebuild] }

// ByNarbor returns the bytes that narbor on this machine has downloaded from the internet in the last 30 days.
func (v view) ByNarbor() int64 { return v.Month.Received[store.FromInternet] }

// State is the state in a word or two, and Level how bad it is: ok, info, warning or error.
func (v view) State() string {
	switch level := v.Level(); {
	case level == control.SeverityError:
		return "Needs attention"
	case !v.Shares() && level != "ok":
		return "Not sharing"
	case len(v.Neighbours) == 0:
		return "No neighbours yet"
	case level == control.SeverityWarning:
		return "Works, with a remark"
	}
	return "All is well"
}

// Level is the worst severity of the health items, or ok.
func (v view) Level() string {
	for _, severity := range []string{control.SeverityError, control.SeverityWarning} {
		if slices.ContainsFunc(v.Health, func(h control.Health) bool { return h.Severity == severity }) {
			return severity
		}
	}
	return "ok"
}

// Paused reports whether the user lets neighbours have nothing.
func (v view) Paused() bool { return v.Sharing == "none" }

// Shares reports whether there is anything that neighbours may have.
func (v view) Shares() bool { return !v.Paused() && (len(v.ShareKeys) > 0 || v.ShareSources) }

// Peer returns a peer's ID, shortened, with its name.
func (v view) Peer(id string) string { return v.names.Of(id) }

// Story is an update in words.
func (v view) Story(u *stats.Update) string { return UpdateText(*u, time.Now(), v.names.Of) }

// NamesNote explains the names if there are any.
func (v view) NamesNote() string {
	if len(v.names) == 0 {
		return ""
	}
	return NamesNote
}

func pageFuncs() template.FuncMap {
	return template.FuncMap{
		"amount": Amount, "percent": percent, "short": ShortID, "host": hostOf, "name": NameOf, "via": viaText, "called": NameText,
		"took": tookText, "lasted": lastedText, "ago": func(t time.Time) string { return lastedText(int64(time.Since(t).Seconds())) },
		"clock":     func(t time.Time) string { return t.Local().Format("15:04:05") },
		"stamp":     func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
		"origin":    originText,
		"css":       func() template.CSS { return template.CSS(pageCSS) },
		"js":        func() template.JS { return template.JS(pageJS) },
		"updateBar": barOf, "rates": RatesText,
		"seconds": func(s float64) string { return tookText(s) },
		"rate":    func(t stats.Transfer) string { return Amount(int64(float64(t.Bytes)/max(t.Seconds, 0.5))) + "/s" },
		"count":   func(n int) string { return humanize.Comma(int64(n)) },
		"count64": Count,
		"join":    strings.Join,
		"hash":    func(base string) bool { _, err := store.ParseHashPart(base); return err == nil },
		"plus":    func(a, b int) int { return a + b },
	}
}

// An updateBar has the ends of the parts of an update, in percent.
type updateBar struct{ Rebuilt, Network int64 }

func barOf(u *stats.Update) updateBar {
	sum := u.SavedOf() + u.Received[store.FromStore]
	return updateBar{percent(u.Received[store.FromRebuild], sum), percent(u.Saved(), sum)}
}

// hostOf is the address in a multiaddr, such as /ip4/192.0.2.1/tcp/6273; any other text stays as it is.
func hostOf(addr string) string {
	parts := strings.Split(addr, "/")
	switch {
	case len(parts) > 2 && (parts[1] == "ip4" || parts[1] == "ip6" || strings.HasPrefix(parts[1], "dns")):
		return parts[2]
	case len(parts) > 4 && parts[1] == "ip6zone":
		return parts[4] + "%" + parts[2]
	}
	return addr
}

// NameOf is a store path's base name without its hash part, which the page shows on request only.
func NameOf(base string) string {
	if p, err := store.ParsePathName(base); err == nil {
		return p.Name()
	}
	return base
}

func viaText(via string) string {
	switch via {
	case "mdns":
		return "multicast"
	case "named":
		return "named by you"
	case "inbound":
		return "it found us"
	case "gateway":
		return "it is the gateway"
	case "remembered":
		return "known from before"
	case "kernel":
		return "named at boot"
	case "dns-sd":
		return "named by DNS"
	case "exchange":
		return "told by a neighbour"
	case "vsock":
		return "it is the host"
	}
	return via
}

func originText(o store.Origin) string {
	switch o {
	case store.FromNeighbours:
		return "neighbours"
	case store.FromOthers:
		return "the internet, by a neighbour"
	case store.FromInternet:
		return "the internet"
	case store.FromRebuild:
		return "rebuilt here"
	case store.FromStore:
		return "this machine"
	}
	return ""
}

// lastedText is a time in seconds for people that does not change every second.
func lastedText(seconds int64) string {
	if minutes := seconds / 60; minutes > 0 {
		return tookText(float64(60 * minutes))
	}
	return "a moment"
}

func (p *Page) render(name string, v view) (string, error) {
	var buf bytes.Buffer
	if err := p.templates.ExecuteTemplate(&buf, name, v); err != nil {
		return "", fmt.Errorf("page: %w", err)
	}
	return buf.String(), nil
}
