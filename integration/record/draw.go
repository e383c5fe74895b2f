package main

import (
	"fmt"
	"html"
	"strings"
	"time"
)

// A line is a text that was shown in a row for a time. One that was there at the end has no until.
type line struct {
	row         int
	text        string
	from, until time.Duration
}

// A film is the lines that a screen has shown.
type film struct {
	shown  []line
	now    []line // by row
	latest time.Duration
}

// take notes a screen, unless it has just noted another.
func (f *film) take(lines []string, at time.Duration) {
	if len(f.now) > 0 && at < f.latest+step {
		return
	}
	f.change(lines, at)
}

// end notes the last screen.
func (f *film) end(lines []string) {
	f.change(lines, f.latest+step)
	f.shown = append(f.shown, f.now...)
}

func (f *film) change(lines []string, at time.Duration) {
	f.latest = at
	for row := range max(len(lines), len(f.now)) {
		text := ""
		if row < len(lines) {
			text = strings.TrimRight(lines[row], " ")
		}
		switch {
		case row == len(f.now):
			f.now = append(f.now, line{row: row, text: text, from: at})
		case f.now[row].text != text:
			old := f.now[row]
			old.until = at
			f.shown = append(f.shown, old)
			f.now[row] = line{row: row, text: text, from: at}
		}
	}
}

const (
	letterWidth, lineHeight, margin = 8.4, 19, 14
	style                           = `text { font: 14px monospace; white-space: pre; fill: #d8dee9 }`
)

// draw makes the SVG. Without animation the last picture is visible.
func draw(lines []line) string {
	var b strings.Builder
	last := 0
	for _, l := range lines {
		if l.text == "" {
			continue
		}
		last = max(last, l.row)
		visibility, set := "", ""
		if l.until > 0 {
			visibility = ` visibility="hidden"`
			set = fmt.Sprintf(`<set attributeName="visibility" to="visible" begin="%.1fs" end="%.1fs"/>`, l.from.Seconds(),
				l.until.Seconds())
		} else if l.from > 0 {
			set = fmt.Sprintf(`<set attributeName="visibility" to="hidden" begin="0s" end="%.1fs"/>`, l.from.Seconds())
		}
		fmt.Fprintf(&b, "<text x=\"%d\" y=\"%d\"%s>%s%s</text>\n", margin, margin+(l.row+1)*lineHeight-5, visibility,
			html.EscapeString(l.text), set)
	}
	width, height := int(columns*letterWidth)+2*margin, (last+1)*lineHeight+2*margin
	return fmt.Sprintf("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\">\n<style>%s</style>\n"+
		"<rect width=\"100%%\" height=\"100%%\" rx=\"8\" fill=\"#1f2430\"/>\n%s</svg>\n", width, height, style, &b)
}
