package main

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// A screen is as much of a terminal as the demo's progress bars need: lines, and a cursor that goes up.
type screen struct {
	lines    []string
	row, col int
	rest     string // the beginning of a sequence or of a character of which the end is still to come
}

// write shows text.
func (s *screen) write(text string) {
	text = s.rest + text
	for text != "" {
		if text[0] == '\x1b' {
			n := strings.IndexFunc(text[1:], func(r rune) bool { return r >= '@' && r != '[' })
			if n < 0 {
				break
			}
			s.control(text[1:n+1], text[n+1])
			text = text[n+2:]
			continue
		}
		if !utf8.FullRuneInString(text) {
			break
		}
		r, n := utf8.DecodeRuneInString(text)
		s.put(r)
		text = text[n:]
	}
	s.rest = text
}

// control obeys the sequences that move the cursor up and that clear the rest of the screen; colours are left out.
func (s *screen) control(args string, what byte) {
	switch n, _ := strconv.Atoi(strings.TrimPrefix(args, "[")); what {
	case 'A':
		s.row = max(s.row-max(n, 1), 0)
	case 'J', 'K':
		s.line()
		s.lines[s.row] = string([]rune(s.lines[s.row])[:s.col])
		if what == 'J' {
			s.lines = s.lines[:s.row+1]
		}
	}
}

func (s *screen) put(r rune) {
	switch r {
	case '\n':
		s.row++
	case '\r':
		s.col = 0
	default:
		s.line()
		runes := []rune(s.lines[s.row])
		s.lines[s.row] = string(append(runes[:s.col], append([]rune{r}, runes[min(s.col+1, len(runes)):]...)...))
		s.col++
	}
}

// line makes the cursor's line long enough to have the cursor.
func (s *screen) line() {
	for len(s.lines) <= s.row {
		s.lines = append(s.lines, "")
	}
	if n := s.col - utf8.RuneCountInString(s.lines[s.row]); n > 0 {
		s.lines[s.row] += strings.Repeat(" ", n)
	}
}
