package watch

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"narbor/cmd/narbor/control"
	"narbor/cmd/narbor/dashboard"
	"narbor/narserve/stats"
	"narbor/store"
)

const (
	// leastWidth and leastHeight are the smallest terminal that says anything useful.
	leastWidth, leastHeight = 24, 5
	// airy is the height from which there are empty lines between the parts, and more than one problem.
	airy = 16
	// leastTable is how many lines a table gets on the smallest terminal: its header, a row and the number of the others.
	leastTable = 3
	// mostFaults is how many problems are shown. `narbor doctor` has all of them, with their remedies.
	mostFaults = 3
)

// A View says what a screen shows, and how.
type View struct {
	// Look returns the status of narbor. It is called by one goroutine at a time.
	Look func(context.Context) (control.Status, error)
	// Every is the time between two calls of Look.
	Every time.Duration
	// Addr returns a multiaddr in its usual form.
	Addr func(string) string
	// Colour allows colours, and ASCII allows no sign that is not of ASCII.
	Colour, ASCII bool
}

// picture returns the lines of the screen, at most height of them and none wider than width.
func (v View) picture(k known, width, height int) []line {
	if width < leastWidth || height < leastHeight {
		if height < 1 {
			return nil
		}
		return []line{{{text: cut("too small; q ends it", width)}}}
	}
	head := append([]line{header(k, width)}, notice(k, width)...)
	var moving, bottom []line
	var tables []table
	gap, most := 0, 1
	if height >= airy {
		gap, most = 1, mostFaults
	}
	if !k.at.IsZero() {
		head = append(head, faults(k.status, most)...)
		moving = moves(k.status.Rates, len(k.status.Now), width)
		bottom = gains(k.status, width)
		if len(k.status.Now) > 0 {
			tables = append(tables, transfers(k.status.Now, width))
		}
		if len(k.status.Neighbours) > 0 {
			tables = append(tables, v.neighbours(k))
		} else {
			bottom = append(alone(width), bottom...)
		}
	}
	parts := [][]line{head, moving}
	free := height - len(join([][]line{head, moving, bottom}, gap)) - gap*len(tables)
	for i, t := range tables {
		lines := max(share(free, t, tables[i+1:]), leastTable)
		drawn := t.draw(width, lines)
		free -= len(drawn)
		parts = append(parts, drawn)
	}
	return limit(join(append(parts, bottom), gap), width, height)
}

// share returns the lines of those free that a table gets: half of them, and what the table after it does not need.
func share(free int, t table, after []table) int {
	need, others := t.rows()+1, 0
	for _, a := range after {
		others += a.rows() + 1
	}
	if len(after) == 0 {
		return free
	}
	return min(need, max(free/2, free-others))
}

// join puts parts one below the other, with gap empty lines between them.
func join(parts [][]line, gap int) (all []line) {
	for _, p := range parts {
		if len(p) > 0 && len(all) > 0 {
			all = append(all, make([]line, gap)...)
		}
		all = append(all, p...)
	}
	return all
}

// limit leaves out the last lines if there are too many, and says how many. No line is wider than the terminal.
func limit(all []line, width, height int) []line {
	if more := len(all) - height + 1; len(all) > height {
		all = append(all[:height-1:height-1], line{{text: cut("and "+dashboard.Plural(more, "more line"), width)}})
	}
	for _, l := range all {
		left := width
		for i := range l {
			l[i].text = cut(l[i].text, left)
			left -= columns(l[i].text)
		}
	}
	return all
}

// header is narbor's name, with as much about it as fits beside the moment of the status.
func header(k known, width int) line {
	right := "q ends it"
	names := []string{"narbor"}
	if !k.at.IsZero() {
		right = k.at.Local().Format("15:04:05") + "  " + right
		st, id := k.status, dashboard.ShortID(k.status.ID)
		name := fmt.Sprintf("narbor %s, peer %s", st.Version, id)
		up := ", up " + dashboard.ShortTime(time.Duration(st.UptimeSeconds)*time.Second)
		names = []string{name + up, name, "narbor " + id, "narbor"}
	}
	for _, name := range names {
		if space := width - columns(name) - columns(right); space >= 2 {
			return line{{text: name, tone: strong}, {text: strings.Repeat(" ", space) + right}}
		}
	}
	return line{{text: names[len(names)-1], tone: strong}}
}

func notice(k known, width int) []line {
	switch {
	case k.err == nil && k.at.IsZero():
		return []line{{{text: "Asking narbor…"}}}
	case k.err == nil:
		return nil
	case k.at.IsZero():
		return field("", "No answer: "+k.err.Error()+". Trying again.", width, bad)
	}
	return field("", "No answer since "+k.at.Local().Format("15:04:05")+": "+k.err.Error()+". Trying again.", width, bad)
}

// faults are the problems from which the service suffers, the worst first and at most so many.
func faults(st control.Status, most int) (out []line) {
	all := st.Faults()
	for _, h := range all[:min(len(all), most)] {
		l := line{{text: " ! ", tone: warning}, {text: h.Title}}
		if h.Severity == control.SeverityError {
			l[0] = span{" ✘ ", bad}
		}
		out = append(out, l)
	}
	if more := len(all) - len(out); more > 0 {
		out = append(out, line{{text: fmt.Sprintf("   and %d more: narbor doctor", more)}})
	} else if len(all) > 0 {
		out = append(out, line{{text: "   what to do: narbor doctor"}})
	}
	return out
}

// moves has the bytes that move in a second, into this machine and out of it, or the number of transfers if none move.
func moves(r stats.Rates, transfers, width int) []line {
	if r == (stats.Rates{}) && transfers > 0 {
		return []line{{{text: dashboard.Plural(transfers, "transfer") + " under way."}}}
	}
	if r == (stats.Rates{}) {
		return []line{{{text: "Nothing moves."}}}
	}
	if width < narrow {
		return []line{{{text: fmt.Sprintf("in %s/s, out %s/s", dashboard.Amount(r.Network+r.Internet), dashboard.Amount(r.Sent))}}}
	}
	in := dashboard.RatesText(stats.Rates{Network: r.Network, Internet: r.Internet})
	out := dashboard.RatesText(stats.Rates{Sent: r.Sent})
	return append(field("in", cmp.Or(in, "nothing"), width, plain), field("out", cmp.Or(out, "nothing"), width, plain)...)
}

// gains has the amounts of 30 days, and of the last update.
func gains(st control.Status, width int) (out []line) {
	if part, rest := dashboard.MonthText(st.Month); part != "" {
		out = append(out, field("saved", part+" "+rest, width, plain)...)
	}
	if st.LastUpdate != nil {
		out = append(out, field("update", dashboard.UpdateText(*st.LastUpdate, time.Now(), dashboard.NamesOf(st).Of), width, plain)...)
	}
	return out
}

// alone stands in place of the neighbours if there are none.
func alone(width int) []line {
	return field("", "No neighbours yet. `narbor doctor` finds out why.", width, plain)
}

// field is a name and a text that is wrapped beside it.
func field(name, text string, width int, t tone) (out []line) {
	first := ""
	if name != "" {
		first = fmt.Sprintf("%-8s", name)
	}
	for _, part := range dashboard.Wrap(text, width-len(first)) {
		out = append(out, line{{text: first}, {text: part, tone: t}})
		first = strings.Repeat(" ", len(first))
	}
	return out
}

func (v View) neighbours(k known) table {
	t := table{what: "neighbour", flexible: 1, columns: []column{{name: "NEIGHBOUR"}, {name: "ADDRESS"}, {name: ">IN/s", least: 8},
		{name: ">OUT/s", least: 8}, {name: ">FROM IT", least: 8, rank: 3}, {name: ">TO IT", least: 8, rank: 4}, {rank: 1}}}
	named := len(dashboard.NamesOf(k.status)) > 0
	if named {
		t.columns, t.flexible = slices.Insert(t.columns, 1, column{name: "NAME", rank: 2}), 2
	}
	for _, n := range k.status.Neighbours {
		state := ""
		if n.Strikes > 0 {
			state = dashboard.Plural(int(n.Strikes), "strike")
		} else if n.Aside != "" {
			state = "set aside"
		}
		rate := k.rate(n)
		cells := []string{dashboard.ShortID(n.ID), v.Addr(n.Addr), amount(rate.in), amount(rate.out),
			dashboard.Amount(n.BytesReceived), dashboard.Amount(n.BytesSent), state}
		if named {
			cells = slices.Insert(cells, 1, dashboard.NameText(n.Name))
		}
		for i, cell := range cells {
			t.columns[i].cells = append(t.columns[i].cells, cell)
		}
	}
	return t
}

func transfers(now []stats.Transfer, width int) table {
	t := table{what: "transfer", flexible: 1, columns: []column{{name: "NOW"}, {name: "PACKAGE"}, {}, {least: 5, rank: 2},
		{name: ">BYTES/s", least: 8}, {name: "PEER", rank: 1}}}
	barWidth := 20
	if width < narrow {
		barWidth = 8
	}
	for _, n := range now {
		way, percent := "out", int64(0)
		if n.Incoming {
			way = "in"
		}
		if n.Size > 0 {
			percent = int64(float64(n.Bytes) / float64(n.Size) * 100)
		}
		for i, cell := range []string{way, dashboard.NameOf(n.Path), bar(n.Bytes, n.Size, barWidth), fmt.Sprintf("%3d %%", percent),
			amount(int64(float64(n.Bytes) / max(n.Seconds, 0.5))), otherSide(n)} {
			t.columns[i].cells = append(t.columns[i].cells, cell)
		}
	}
	return t
}

func otherSide(n stats.Transfer) string {
	switch {
	case len(n.Peers) > 1:
		return fmt.Sprintf("%s +%d", dashboard.ShortID(n.Peers[0]), len(n.Peers)-1)
	case len(n.Peers) == 1:
		return dashboard.ShortID(n.Peers[0])
	case n.Origin == store.FromInternet:
		return "internet"
	case n.Origin == store.FromRebuild:
		return "rebuilt"
	}
	return ""
}

// amount is a number of bytes, and empty if nothing moves or the counts began anew.
func amount(n int64) string {
	if n <= 0 {
		return ""
	}
	return dashboard.Amount(n)
}
