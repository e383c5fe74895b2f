package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"narbor/cmd/narbor/circle"
	"narbor/cmd/narbor/doctor"
	"narbor/store/nixconf"
)

// A nixLine is a value that a circle needs in a list of Nix's configuration.
type nixLine struct{ setting, value string }

func (l nixLine) String() string { return "extra-" + l.setting + " = " + l.value }

// nixLines are the lines that a member of the circle has in nix.conf.
func nixLines(c circle.Circle) (lines []nixLine) {
	if c.SigningKey != "" {
		lines = append(lines, nixLine{"secret-key-files", c.SigningKey})
	}
	for _, key := range c.Keys {
		lines = append(lines, nixLine{"trusted-public-keys", key})
	}
	return lines
}

// mayEdit fails if --write is given and nix.conf could not get such lines: nothing has been changed then.
func mayEdit(c *cli.Context, lines ...nixLine) error {
	for _, l := range lines {
		if !c.Bool("write") {
			return nil
		}
		edit, err := nixconf.AddTo("extra-"+l.setting, l.value, "")
		if err == nil {
			_, err = edit.Target()
		}
		if err != nil {
			return fmt.Errorf("--write: %w. Without --write the rest is done, and the lines are printed", err)
		}
	}
	return nil
}

// tellNixOfCircle writes the lines of a circle to nix.conf, or prints them; those of the circle before it go.
func tellNixOfCircle(c *cli.Context, s screen, now circle.Circle, before *circle.Circle) error {
	lines := nixLines(now)
	var old []nixLine
	if before != nil {
		old = slices.DeleteFunc(nixLines(*before), func(l nixLine) bool { return slices.Contains(lines, l) })
	}
	if !c.Bool("write") {
		s.line("nix.conf needs, below any line that replaces the same list:")
		for _, l := range lines {
			fmt.Fprintf(s, "  %s\n", l) // never wrapped: it is to be copied
		}
		printUnwanted(s, old)
	} else if err := replaceLines(c, s, lines, old); err != nil {
		return fmt.Errorf("the circle is made, but nix.conf has not all of it: %w; see `narbor circle show`", err)
	}
	restartHint(s)
	return nil
}

// replaceLines takes the old lines out of nix.conf once it has the new ones.
func replaceLines(c *cli.Context, s screen, lines, old []nixLine) error {
	if err := addLines(c, s, lines); err != nil {
		return err
	}
	return takeOut(c, s, old)
}

func addLines(c *cli.Context, s screen, lines []nixLine) error {
	for _, l := range lines {
		edit, err := nixconf.AddTo("extra-"+l.setting, l.value, "")
		if err != nil {
			return err
		}
		file, err := edit.Apply(c.Context)
		if err != nil {
			return rootHint(err)
		}
		if file != "" {
			s.hang("added to", file+": "+l.String())
		}
	}
	return nil
}

// takeOut takes values out of nix.conf. It fails for those that a line with other values has.
func takeOut(c *cli.Context, s screen, lines []nixLine) error {
	var errs []error
	for _, l := range lines {
		for _, edit := range nixconf.RemoveFrom(l.setting, l.value) {
			file, err := edit.Apply(c.Context)
			if err != nil {
				errs = append(errs, rootHint(err))
			} else if file != "" {
				s.hang("took out of", file+": "+l.String())
			}
		}
		if at := inNixConf(l); at != "" {
			errs = append(errs, fmt.Errorf("take %s out of %s by hand, at %s", l.value, l.setting, at))
		}
	}
	return errors.Join(errs...)
}

// inNixConf returns the file and line that give a value; "" is none.
func inNixConf(l nixLine) string {
	for _, line := range nixconf.Lines(l.setting) {
		if line.Value == l.value && line.UndoneBy == "" {
			return line.At
		}
	}
	return ""
}

func printUnwanted(s screen, lines []nixLine) {
	for _, l := range lines {
		if at := inNixConf(l); at != "" {
			s.line("take out of nix.conf, at %s:", at)
			fmt.Fprintf(s, "  %s\n", l)
		}
	}
}

// restartHint says what must be restarted: both programs read their part when they start.
func restartHint(s screen) {
	commands := []string{"restart narbor"}
	if doctor.HasSystemd() {
		commands = []string{"sudo systemctl restart narbor"}
	}
	if nix := doctor.RestartDaemon(doctor.HasSystemd()); nix != "" {
		commands = append(commands, "sudo "+nix)
	} else if doctor.HasDaemon() {
		commands = append(commands, "restart nix-daemon")
	}
	s.hang("then", strings.Join(commands, "; "))
}

// rootHint adds what to do to an error of permissions.
func rootHint(err error) error {
	if errors.Is(err, os.ErrPermission) && os.Geteuid() != 0 {
		return fmt.Errorf("%w: run this as root", err)
	}
	return err
}
