package main

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"narbor/cmd/narbor/control"
)

// Output into a file or a pipe is searched by grep: a paragraph is one line. A file is no terminal, whatever TERM says.
func TestPipeGetsUnwrappedLines(t *testing.T) {
	c := contextFor(t)
	var b bytes.Buffer
	c.App.Writer = &b
	long := strings.TrimSpace(strings.Repeat("word ", 100))
	s := newScreen(c)
	s.field("field", "%s", long)
	s.hang(" . ", long)
	s.line("%s", long)
	if n := strings.Count(b.String(), "\n"); n != 3 || strings.Contains(b.String(), "\x1b") {
		t.Errorf("3 paragraphs are %d lines in a pipe:\n%q", n, &b)
	}
}

func TestLocaleWithoutUTF8GetsASCII(t *testing.T) {
	for _, c := range []struct {
		all, ctype, lang string
		ascii            bool
	}{
		{"", "", "", false}, {"", "", "C", true}, {"", "", "POSIX", true}, {"", "", "C.UTF-8", false}, {"", "", "en_GB.utf8", false},
		{"", "", "de_DE", false},
		{"", "", "de_DE.ISO-8859-1", true}, {"", "", "ca_ES.UTF-8@valencia", false}, {"C", "", "en_GB.UTF-8", true},
		{"en_GB.UTF-8", "", "C", false}, {"", "C", "en_GB.UTF-8", true},
	} {
		t.Setenv("LC_ALL", c.all)
		t.Setenv("LC_CTYPE", c.ctype)
		t.Setenv("LANG", c.lang)
		ctx := contextFor(t)
		var b bytes.Buffer
		ctx.App.Writer = &b
		s := newScreen(ctx)
		printStatus(exampleStatus(), s)
		Diagnosis{Findings: []control.Health{{Severity: control.SeverityOK, Text: "well"},
			{Severity: control.SeverityError, Text: "bad"},
			{Severity: control.SeveritySkipped, Text: "skipped"}}}.print(s)
		other := strings.IndexFunc(b.String(), func(r rune) bool { return r >= utf8.RuneSelf })
		if (other < 0) != c.ascii {
			t.Errorf("%+v: a sign that is not of ASCII stands at %d of\n%s", c, other, &b)
		}
		if c.ascii && (strings.Contains(b.String(), "?") || !strings.Contains(b.String(), "...")) {
			t.Errorf("%+v: a sign has no counterpart:\n%s", c, &b)
		}
	}
}

// Columns stand below each other in ASCII too, and lines fit.
func TestTableInASCII(t *testing.T) {
	var b bytes.Buffer
	screen{Writer: &b, width: 12, cut: true, ascii: true}.table([]string{"A", "B"},
		[][]string{{"…a", "1"}, {"bbbb", "2"}, {"c", "a long cell"}})
	if want := "A     B\n...a  1\nbbbb  2\nc     a l...\n"; b.String() != want {
		t.Errorf("the table is\n%s\nwant\n%s", &b, want)
	}
}

func TestHelpIsASCIIInLocaleC(t *testing.T) {
	t.Setenv("LC_ALL", "C")
	for _, cmd := range newApp(nil, nil, nil).Commands {
		out, _, err := narbor(t.Context(), cmd.Name, "--help")
		if i := strings.IndexFunc(out, func(r rune) bool { return r >= utf8.RuneSelf }); err != nil || i >= 0 {
			t.Errorf("%s --help = %v, and has a sign that is not of ASCII: %.40q", cmd.Name, err, out[max(i, 0):])
		}
	}
}

// No error of the control socket shows the request or the call of the system that it came from.
func TestErrorsOfTheControlSocketAreWords(t *testing.T) {
	raw := regexp.MustCompile(`"http|dial unix|dial tcp|: EOF|context deadline|syscall|read unix|connect:`)
	dir := t.TempDir()
	ask := func(name string) error {
		ctl := control.Client{Paths: []string{filepath.Join(dir, name)}, Timeout: 200 * time.Millisecond}
		return ctl.Put(t.Context(), "/share", "none")
	}
	listen := func(name string, serve func(net.Conn)) {
		l, err := net.Listen("unix", filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				serve(c)
			}
		}()
	}
	listen("hangs-up", func(c net.Conn) { c.Close() })
	listen("silent", func(c net.Conn) { t.Cleanup(func() { c.Close() }) })
	listen("breaks-off", func(c net.Conn) {
		c.Read(make([]byte, 4096))
		c.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"))
		c.Close()
	})
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, says := range map[string]string{"absent": "not running", "hangs-up": "hung up", "silent": "no answer in time",
		"breaks-off": "hung up", "file": "not running",
		strings.Repeat("long", 60): "invalid argument"} {
		err := ask(name)
		if err == nil || raw.MatchString(err.Error()) || !strings.Contains(err.Error(), says) {
			t.Errorf("%.20s: %v, want %q in words for people", name, err, says)
		}
		if name == "silent" && !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v is no %v: wait asks again after such an error", err, context.DeadlineExceeded)
		}
	}
	idle := control.BareError(&url.Error{Op: "Put", URL: "http://narbor/share", Err: errors.New("http: server closed idle connection")})
	if !strings.Contains(idle.Error(), "hung up") {
		t.Errorf("a connection that was closed before the request is %q", idle)
	}
	denied := control.BareError(&net.OpError{Op: "dial", Net: "unix", Err: os.NewSyscallError("connect", syscall.EACCES)})
	if !errors.Is(denied, fs.ErrPermission) || denied.Error() != "permission denied" {
		t.Errorf("no permission is %q", denied)
	}
}
