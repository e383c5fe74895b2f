// Record runs `narbor demo` on a terminal and draws what that shows as an SVG that plays.
//
//	go build -o /tmp/narbor ./cmd/narbor && go run ./integration/record /tmp/narbor integration/demo.svg
//
// A viewer that plays nothing shows the end. A demo that fails leaves the file as it was. The terminal is made by
// script(1), of util-linux.
package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"
)

const (
	columns = 110
	// rows is more than the demo prints: a terminal that scrolls would have to be drawn as one that does.
	rows = 60
	// step is the shortest time that something is shown: the bars move more often than a reader notices.
	step = 500 * time.Millisecond
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: record PROGRAM FILE.svg; PROGRAM is a narbor that is built")
		os.Exit(2)
	}
	if err := record(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "record:", err)
		os.Exit(1)
	}
}

// record replaces a file by the SVG of a run of the program's demo.
func record(program, file string) error {
	cmd := exec.Command("script", "--quiet", "--return", "--flush", "--command",
		fmt.Sprintf(`stty cols %d rows %d && exec "$PROGRAM" demo`, columns, rows), os.DevNull)
	cmd.Env = append(os.Environ(), "PROGRAM="+program, "TERM=xterm", "SHELL=/bin/sh", "LC_ALL=C.UTF-8")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return err
	}
	shown, rerr := watch(out, time.Now)
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%s demo: %w", program, err)
	}
	if rerr != nil {
		return rerr
	}
	whole := file + ".new"
	if err := os.WriteFile(whole, []byte(draw(shown)), 0o644); err != nil {
		return err
	}
	return os.Rename(whole, file)
}

// watch reads the output of a terminal until it ends, and returns the lines that the terminal has shown.
func watch(r io.Reader, now func() time.Time) ([]line, error) {
	var s screen
	start, buf := now(), make([]byte, 1<<16)
	var f film
	for {
		n, err := r.Read(buf)
		s.write(string(buf[:n]))
		f.take(s.lines, now().Sub(start))
		if err != nil {
			f.end(s.lines)
			if err == io.EOF {
				err = nil
			}
			return f.shown, err
		}
	}
}
