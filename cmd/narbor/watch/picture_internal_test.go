package watch

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gdamore/tcell/v2"

	"narbor/cmd/narbor/control"
	"narbor/narserve/stats"
	"narbor/p2p"
)

// No terminal is too small or too large.
func TestPictureFitsEveryTerminal(t *testing.T) {
	long := strings.Repeat("long", 50)
	st := control.Status{Version: long, Status: p2p.Status{ID: long}}
	for i := range 60 {
		st.Neighbours = append(st.Neighbours, p2p.NeighbourStatus{ID: fmt.Sprint(long, i), Addr: long, Aside: long})
		st.Now = append(st.Now, stats.Transfer{Path: long, Peers: []string{long, long}, Size: int64(i) - 10, Bytes: int64(i) * (1 << 50)})
		st.Health = append(st.Health, control.Health{Severity: control.SeverityError, Title: long})
	}
	v := View{Addr: func(a string) string { return a }}
	for _, k := range []known{{}, {err: errors.New(long)}, {at: time.Now()}, {at: time.Now(), status: st},
		{at: time.Now(), status: st, err: errors.New(long)}} {
		for width := range 120 {
			for height := range 50 {
				lines := v.picture(k, width, height)
				if len(lines) > height {
					t.Fatalf("%d lines at %d x %d", len(lines), width, height)
				}
				for _, l := range lines {
					n := 0
					for _, s := range l {
						n += columns(s.text)
					}
					if n > width {
						t.Fatalf("a line of %d columns at %d x %d: %v", n, width, height, l)
					}
				}
			}
		}
	}
}

func TestTooSmallTerminalSaysSo(t *testing.T) {
	for _, size := range [][2]int{{leastWidth - 1, 24}, {80, leastHeight - 1}} {
		if got := (View{}).picture(known{at: time.Now()}, size[0], size[1]); len(got) != 1 || got[0][0].text != "too small; q ends it" {
			t.Errorf("the picture at %v is %v", size, got)
		}
	}
	if got := (View{}).picture(known{at: time.Now()}, leastWidth, leastHeight); len(got) < 2 {
		t.Errorf("the smallest picture is %v", got)
	}
}

// In a locale without UTF-8 each sign of every picture has a counterpart.
func TestPicturesHaveASCII(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range strings.ReplaceAll(string(text), "\n", "") {
			if got := (View{ASCII: true}).cell(r); got >= 0x7f || got == '?' {
				t.Errorf("%s: %q is %q in ASCII", file, r, got)
			}
		}
	}
}

func TestNoColourWhereNoneIsWanted(t *testing.T) {
	for _, tone := range []tone{plain, strong, good, warning, bad} {
		if colour, _, _ := (View{}).style(tone).Decompose(); colour != tcell.ColorDefault {
			t.Errorf("tone %d has the colour %v", tone, colour)
		}
	}
	if colour, _, _ := (View{Colour: true}).style(bad).Decompose(); colour == tcell.ColorDefault {
		t.Error("a problem has no colour where colours are wanted")
	}
}

type fakeTTY struct {
	tcell.Tty
	io.Reader
}

func (f fakeTTY) Read(b []byte) (int, error) { return f.Reader.Read(b) }

// A read of pasted text is dropped, and a key after it is read.
func TestPastedTextIsDropped(t *testing.T) {
	k := keyboard{fakeTTY{Reader: bytes.NewReader(append(bytes.Repeat([]byte("x"), 3*128), 'q'))}}
	b := make([]byte, 128)
	if n, err := k.Read(b); err != nil || string(b[:n]) != "q" {
		t.Errorf("Read = %q, %v, want the key after the pasted text", b[:n], err)
	}
	if _, err := k.Read(b); !errors.Is(err, io.EOF) {
		t.Errorf("Read at the end = %v, want %v", err, io.EOF)
	}
}
