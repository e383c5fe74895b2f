package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"narbor/cmd/narbor/control"
	"narbor/cmd/narbor/dashboard"
)

// unwrapped is the width of what goes into a file or a pipe: a paragraph is one line, which grep finds whole.
const unwrapped = 1 << 20

// plainWidth is how wide text is on a terminal that does not tell its width.
const plainWidth = 80

// A screen is where a command prints for people: as wide as the terminal, and in colour only there.
type screen struct {
	io.Writer
	width  int  // columns
	cut    bool // longer lines are cut off; a file or a pipe keeps them whole
	colour bool
	ascii  bool // nothing else is printed
}

// plain is a text as it will be printed, so that its width is known.
func (s screen) plain(text string) string {
	if s.ascii {
		return asciiOf(text)
	}
	return text
}

func newScreen(c *cli.Context) screen {
	s := screen{Writer: c.App.Writer, width: unwrapped, colour: os.Getenv("CLICOLOR_FORCE") != "" && os.Getenv("CLICOLOR_FORCE") != "0"}
	if f, ok := c.App.Writer.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 0 {
			s.width, s.cut = w, true
		} else {
			s.width = plainWidth
		}
		s.colour = os.Getenv("TERM") != "dumb"
	}
	s.colour = s.colour && os.Getenv("NO_COLOR") == ""
	if s.ascii = isASCII(); s.ascii {
		s.Writer = asciiWriter{s.Writer}
	}
	return s
}

// isASCII reports whether output must be ASCII: the locale is C or POSIX, or names another character set
// than UTF-8.
func isASCII() bool {
	locale := strings.ToLower(cmp.Or(os.Getenv("LC_ALL"), os.Getenv("LC_CTYPE"), os.Getenv("LANG")))
	_, charset, named := strings.Cut(locale, ".")
	charset, _, _ = strings.Cut(charset, "@")
	return locale == "c" || locale == "posix" || named && charset != "utf-8" && charset != "utf8"
}

// asciiOf writes a text in ASCII: the signs that narbor prints as similar ones, and any other sign as a question mark.
func asciiOf(text string) string {
	text = strings.NewReplacer("✔", "+", "✘", "x", "·", "-", "…", "...", "→", "->", "–", "-", "µ", "u").Replace(text)
	return strings.Map(func(r rune) rune {
		if r >= utf8.RuneSelf {
			return '?'
		}
		return r
	}, text)
}

func inLocale(text string) string {
	if isASCII() {
		return asciiOf(text)
	}
	return text
}

// An asciiWriter converts text by [asciiOf] and passes it on. Each Write must be of whole runes.
type asciiWriter struct{ w io.Writer }

// Write implements [io.Writer].
func (a asciiWriter) Write(p []byte) (int, error) {
	if _, err := io.WriteString(a.w, asciiOf(string(p))); err != nil {
		return 0, err
	}
	return len(p), nil
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// canRedraw reports whether w is a terminal that takes escape sequences.
func canRedraw(w io.Writer) bool { return isTerminal(w) && os.Getenv("TERM") != "dumb" }

// Colours, as terminals know them.
const (
	bold   = "1"
	red    = "31"
	green  = "32"
	yellow = "33"
)

// colours are what paint adds, which takes no room.
var colours = regexp.MustCompile("\x1b\\[[0-9]*m")

func (s screen) paint(colour, text string) string {
	if !s.colour || colour == "" {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

func (s screen) line(format string, args ...any) {
	fmt.Fprintln(s.Writer, s.fit(fmt.Sprintf(format, args...)))
}

// field prints a name and what there is to say about it, wrapped beside the name.
func (s screen) field(name, format string, args ...any) {
	const column = 11
	s.hang(fmt.Sprintf("%-*s", column, name), fmt.Sprintf(format, args...))
}

// hang prints first and then text, wrapped so that its lines are aligned.
func (s screen) hang(first, text string) {
	first, text = s.plain(first), s.plain(text)
	bare := colours.ReplaceAllString(first, "")
	if !strings.HasSuffix(bare, " ") {
		first, bare = first+" ", bare+" "
	}
	column := utf8.RuneCountInString(bare)
	for _, line := range dashboard.Wrap(text, max(s.width-column, 24)) {
		fmt.Fprintln(s.Writer, strings.TrimRight(first+line, " "))
		first = strings.Repeat(" ", column)
	}
}

// table prints rows below a header, each column as wide as its widest cell. A name that begins with ">" aligns its
// column to the right. If the lines do not fit the terminal, table leaves out the columns with the indexes in drop, in
// that order, until they fit.
func (s screen) table(header []string, rows [][]string, drop ...int) {
	right := make([]bool, len(header))
	names := make([]string, len(header))
	for i, h := range header {
		names[i] = strings.TrimPrefix(h, ">")
		right[i] = names[i] != h
	}
	widths := make([]int, len(header))
	all := append([][]string{names}, rows...)
	for _, row := range all {
		for i := range row {
			row[i] = s.plain(row[i])
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i]))
		}
	}
	kept := s.keptColumns(widths, drop)
	for n, row := range all {
		var b strings.Builder
		for _, i := range kept {
			cell := row[i]
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if right[i] {
				cell = pad + cell
			} else {
				cell += pad
			}
			if b.Len() > 0 {
				b.WriteString("  ")
			}
			b.WriteString(cell)
		}
		text := s.fit(strings.TrimRight(b.String(), " "))
		if n == 0 {
			text = s.paint(bold, text)
		}
		fmt.Fprintln(s.Writer, text)
	}
}

// keptColumns returns the indexes of a table's columns that fit the terminal after as few of drop as needed are left
// out.
func (s screen) keptColumns(widths, drop []int) (kept []int) {
	total := 0
	for i, w := range widths {
		kept = append(kept, i)
		total += w + len("  ")
	}
	for _, d := range drop {
		if !s.cut || total-len("  ") <= s.width {
			break
		}
		kept = slices.DeleteFunc(kept, func(i int) bool { return i == d })
		total -= widths[d] + len("  ")
	}
	return kept
}

// fit cuts a line that is too long for the terminal.
func (s screen) fit(text string) string {
	text = s.plain(text)
	if !s.cut || utf8.RuneCountInString(text) <= s.width {
		return text
	}
	end := s.plain("…")
	return string([]rune(text)[:max(s.width-utf8.RuneCountInString(end), 0)]) + end
}

// show prints a value for programs if there is --json, and for people otherwise.
func show(c *cli.Context, v any, print func(screen)) error {
	if c.Bool("json") {
		return printJSON(c.App.Writer, v)
	}
	print(newScreen(c))
	return nil
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// mark is the sign before a finding.
func (s screen) mark(severity string) string {
	switch severity {
	case control.SeverityOK:
		return s.paint(green, " ✔ ")
	case control.SeverityError:
		return s.paint(red, " ✘ ")
	case control.SeverityWarning:
		return s.paint(yellow, " ! ")
	case control.SeverityInfo:
		return " · "
	}
	return " - "
}

// shortAddr prints a multiaddr in the usual form, ADDRESS or ADDRESS:PORT, without the default port.
func shortAddr(addr string) string {
	parts := strings.Split(addr, "/")
	if len(parts) >= 5 && parts[1] == "ip6zone" { // a link-local address
		parts = append([]string{"", "ip6", parts[4] + "%" + parts[2]}, parts[5:]...)
	}
	if len(parts) == 3 && parts[0] == "" { // the port is not known
		return parts[2]
	}
	if len(parts) < 5 || parts[0] != "" || parts[3] != "tcp" {
		return addr
	}
	if parts[4] == strconv.Itoa(defaultPort) {
		return parts[2]
	}
	return net.JoinHostPort(parts[2], parts[4])
}
