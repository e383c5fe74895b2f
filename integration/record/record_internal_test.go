package main

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

func TestScreenShowsWhatATerminalDoes(t *testing.T) {
	for _, c := range []struct {
		written string
		want    []string
	}{
		{"one\r\ntwo", []string{"one", "two"}},
		{"one\rO", []string{"One"}},
		{"a\r\nb\r\n\x1b[2AA", []string{"A", "b"}},
		{"a\r\nb\r\nc\r\n\x1b[3A\x1b[Jnew\r\n", []string{"new"}},
		{"abc\r\x1b[K", []string{""}},
		{"\x1b[31mred\x1b[0m", []string{"red"}},
		{"a\x1b[9Ab", []string{"ab"}},
		{"…\r\n é", []string{"…", " é"}},
	} {
		var whole, bytes screen
		whole.write(c.written)
		for i := range len(c.written) { // sequences and characters come in parts
			bytes.write(c.written[i : i+1])
		}
		if !slices.Equal(whole.lines, c.want) || !slices.Equal(bytes.lines, c.want) {
			t.Errorf("%q shows %q, by bytes %q, want %q", c.written, whole.lines, bytes.lines, c.want)
		}
	}
}

func TestFilmKeepsWhatWasShown(t *testing.T) {
	start, calls := time.Unix(0, 0), 0
	now := func() time.Time { calls++; return start.Add(time.Duration(calls-1) * step / 4) }
	// Between two steps nothing is noted: the 1 is shown, the 2 is not, the 3 is, and 4 is the end.
	r := iotest.OneByteReader(strings.NewReader("1\r2\r3\r4"))
	shown, err := watch(r, now)
	var got []string
	for _, l := range shown {
		got = append(got, l.text)
	}
	if err != nil || !slices.Equal(got, []string{"1", "3", "4"}) {
		t.Errorf("a film of a terminal that shows 1 to 4 = %q, %v", got, err)
	}
	if last := shown[len(shown)-1]; last.until != 0 {
		t.Errorf("the last picture ends: %+v", last)
	}
	if _, err := watch(iotest.ErrReader(errors.ErrUnsupported), now); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("a terminal that fails = %v", err)
	}
}

// texts are those of an SVG, in its order, if it is XML.
func texts(t *testing.T, svg string) (all []string) {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(svg))
	for in := false; ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatalf("not XML: %v\n%s", err, svg)
		}
		switch token := token.(type) {
		case xml.StartElement:
			in = token.Name.Local == "text"
		case xml.EndElement:
			in = false
		case xml.CharData:
			if in {
				all = append(all, string(token))
			}
		}
	}
}

// The recording of a program that redraws a line has its first and its last picture, and the last is seen without
// animation.
func TestRecordDrawsAProgramOnATerminal(t *testing.T) {
	if _, err := exec.LookPath("script"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	program := filepath.Join(t.TempDir(), "program")
	const text = "#!/bin/sh\ntest -t 1 && test \"$1\" = demo || exit 1\nprintf 'a <b> & c\\n10 %%\\n\\033[1A\\033[Jdone\\n'\n"
	if err := os.WriteFile(program, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "demo.svg")
	if err := record(program, file); err != nil {
		t.Fatal(err)
	}
	svg, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	out := string(svg)
	if got := texts(t, out); !slices.Contains(got, "a <b> & c") || !slices.Contains(got, "done") {
		t.Errorf("the recording has %q", got)
	}
	if !strings.Contains(out, `>done<`) || strings.Contains(out, `visibility="hidden">done`) {
		t.Errorf("the end is not shown without animation:\n%s", out)
	}
	if err := record("/bin/false", file); err == nil {
		t.Error("a demo that fails is recorded")
	}
	if kept, err := os.ReadFile(file); err != nil || string(kept) != out {
		t.Errorf("after a demo that fails the file has %d bytes, want the %d from before: %v", len(kept), len(out), err)
	}
	if left, err := os.ReadDir(filepath.Dir(file)); err != nil || len(left) != 1 {
		t.Errorf("beside the recording there is %v: %v", left, err)
	}
}
