package watch

import (
	"slices"
	"strings"
	"unicode/utf8"

	"narbor/cmd/narbor/dashboard"
)

// A tone is how a text looks.
type tone int

const (
	plain tone = iota
	strong
	good
	warning
	bad
)

// A span is text in one tone, and a line is spans side by side.
type (
	span struct {
		text string
		tone tone
	}
	line []span
)

// columns returns how wide a text is: each sign takes one cell.
func columns(text string) int { return utf8.RuneCountInString(text) }

// A column of a table. Its cells are aligned to the right if its name begins with ">".
type column struct {
	name  string
	least int // columns that it takes at least, so that a rate that changes moves nothing else
	rank  int // of two columns that do not fit, the one of the higher rank is left out first; 0 stays
	cells []string
}

// narrow is the width below which columns have one space between them.
const narrow = 60

// leastFlexible is the width that the flexible column keeps before others are left out: an IPv4 address, or most of a
// name.
const leastFlexible = 12

// A table has columns of equal length. The column with the index flexible takes the width that the others leave.
type table struct {
	columns  []column
	flexible int
	what     string // the thing of one row
}

func (t table) rows() int { return len(t.columns[t.flexible].cells) }

// draw returns a header and the rows, in at most so many lines. The last line is the number of the rows that are left
// out.
func (t table) draw(width, lines int) (out []line) {
	gap := "  "
	if width < narrow {
		gap = " "
	}
	widths := make([]int, len(t.columns))
	for i, c := range t.columns {
		widths[i] = max(c.least, columns(strings.TrimPrefix(c.name, ">")))
		for _, cell := range c.cells {
			widths[i] = max(widths[i], columns(cell))
		}
	}
	kept := t.fit(widths, width, len(gap))
	shown := min(t.rows(), lines-1)
	if shown < t.rows() {
		shown = max(lines-2, 0)
	}
	for row := -1; row < shown; row++ {
		var cells []string
		for _, i := range kept {
			text, right := strings.CutPrefix(t.columns[i].name, ">")
			if row >= 0 {
				text = t.columns[i].cells[row]
			}
			cells = append(cells, padded(text, widths[i], right))
		}
		l := line{{text: strings.Join(cells, gap)}}
		if row < 0 {
			l[0].tone = strong
		}
		out = append(out, l)
	}
	if more := t.rows() - shown; more > 0 {
		out = append(out, line{{text: "and " + dashboard.Plural(more, "more "+t.what)}})
	}
	return out
}

// fit returns the indexes of the columns that fit, and gives the flexible one the width that is left.
func (t table) fit(widths []int, width, gap int) (kept []int) {
	for i := range t.columns {
		kept = append(kept, i)
	}
	for {
		left := width + gap
		for _, i := range kept {
			left -= gap
			if i != t.flexible {
				left -= widths[i]
			}
		}
		drop := slices.MaxFunc(kept, func(a, b int) int { return t.columns[a].rank - t.columns[b].rank })
		if left >= min(widths[t.flexible], leastFlexible) || t.columns[drop].rank == 0 {
			widths[t.flexible] = max(min(widths[t.flexible], left), 1)
			return kept
		}
		kept = slices.DeleteFunc(kept, func(i int) bool { return i == drop })
	}
}

func padded(text string, width int, right bool) string {
	n := columns(text)
	switch {
	case n > width:
		return cut(text, width)
	case right:
		return strings.Repeat(" ", width-n) + text
	}
	return text + strings.Repeat(" ", width-n)
}

func cut(text string, width int) string {
	if columns(text) <= width {
		return text
	}
	if width < 1 {
		return ""
	}
	return string([]rune(text)[:width-1]) + "…"
}

func bar(part, of int64, width int) string {
	filled := 0
	if of > 0 {
		filled = min(max(int(float64(part)/float64(of)*float64(width)), 0), width)
	}
	return strings.Repeat("█", filled) + strings.Repeat("·", width-filled)
}
