package watch

import (
	"unicode"

	"github.com/gdamore/tcell/v2"
	"github.com/rivo/uniseg"
)

// Open returns the initialized screen of this process's terminal. The error means that the terminal is as it was: its
// kind or its character set is not known, or there is none.
func Open() (tcell.Screen, error) {
	tty, err := tcell.NewDevTty()
	if err != nil {
		return nil, err
	}
	screen, err := tcell.NewTerminfoScreenFromTty(keyboard{tty})
	if err != nil {
		return nil, err
	}
	return screen, screen.Init()
}

// A keyboard is a terminal without pasted text: tcell would wait for its own queue at the end if more of it arrives
// than the queue takes.
type keyboard struct{ tcell.Tty }

// Read implements [io.Reader]. A read that fills b is of pasted text, since a key has a few bytes.
func (k keyboard) Read(b []byte) (int, error) {
	for {
		if n, err := k.Tty.Read(b); err != nil || n < len(b) {
			return n, err
		}
	}
}

func (v View) style(t tone) tcell.Style {
	colours := map[tone]tcell.Color{good: tcell.ColorGreen, warning: tcell.ColorOlive, bad: tcell.ColorMaroon}
	style := tcell.StyleDefault.Bold(t == strong)
	if colour, ok := colours[t]; ok && v.Colour {
		style = style.Foreground(colour)
	}
	return style
}

// draw shows the picture of a status. Each cell is put once, because tcell takes a cell that was cleared and put for a
// change.
func (v View) draw(screen tcell.Screen, shown known) {
	width, height := screen.Size()
	lines := v.picture(shown, width, height)
	for y := range height {
		x := 0
		if y < len(lines) {
			for _, s := range lines[y] {
				for _, r := range s.text {
					screen.Put(x, y, string(v.cell(r)), v.style(s.tone))
					x++
				}
			}
		}
		for ; x < width; x++ {
			screen.Put(x, y, " ", tcell.StyleDefault)
		}
	}
	screen.Show()
}

// cell returns the sign that stands for r in one cell.
func (v View) cell(r rune) rune {
	if r >= ' ' && r < unicode.MaxASCII {
		return r
	}
	if !v.ASCII && unicode.IsPrint(r) && uniseg.StringWidth(string(r)) == 1 {
		return r
	}
	switch r {
	case '…':
		return '.'
	case '█':
		return '#'
	case '·':
		return '-'
	case '✘':
		return 'x'
	}
	return '?'
}
