package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"narbor/cmd/narbor/circle"
	"narbor/cmd/narbor/control"
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

// A circleReport is what `narbor circle show` prints.
type circleReport struct {
	Schema     int         `json:"schema"`
	Name       string      `json:"name"`
	SecretIn   string      `json:"secretIn"` // the file that has the secret, which is never printed
	SigningKey string      `json:"signingKey"`
	SigningAt  string      `json:"signingAt"` // where nix.conf names it
	Keys       []circleKey `json:"keys"`
}

// A circleKey is a key that signs the members' own builds.
type circleKey struct {
	Public      string `json:"public"`
	Fingerprint string `json:"fingerprint"`
	Line        string `json:"line"`
	TrustedAt   string `json:"trustedAt"` // where nix.conf names it; "" if Nix does not trust it
}

func circleShowCommand() *cli.Command {
	return &cli.Command{
		Name:        "show",
		Usage:       "show the circle that this machine is in, and its keys",
		Description: "It does not show the secret, but the file that has it.\n\nExample: sudo narbor circle show",
		Flags:       []cli.Flag{jsonFlag(), circleStateFlag()},
		Action: func(c *cli.Context) error {
			dir, now, err := circleOf(c)
			if err != nil {
				return err
			}
			r := circleReport{Schema: control.Schema, Name: now.Name, SecretIn: circle.File(dir), SigningKey: now.SigningKey}
			if now.SigningKey != "" {
				r.SigningAt = inNixConf(nixLine{"secret-key-files", now.SigningKey})
			}
			for _, key := range now.Keys {
				l := nixLine{"trusted-public-keys", key}
				r.Keys = append(r.Keys, circleKey{key, circle.Fingerprint(key), l.String(), inNixConf(l)})
			}
			if c.Bool("json") {
				return printJSON(c.App.Writer, r)
			}
			r.print(newScreen(c))
			return nil
		},
	}
}

func (r circleReport) print(s screen) {
	s.field("circle", "%s", r.Name)
	s.field("secret", "in %s", r.SecretIn)
	if r.SigningKey != "" {
		s.field("signs", "with %s, %s", r.SigningKey, orNotYet(r.SigningAt, nixLine{"secret-key-files", r.SigningKey}))
	}
	for _, k := range r.Keys {
		s.field("key", "%s", keyName(k.Public))
		s.field("", "%s", k.Fingerprint)
		if k.TrustedAt != "" {
			s.field("", "trusted: %s", k.TrustedAt)
		} else {
			s.field("", "not trusted by this machine's Nix: nix.conf needs the line")
		}
		fmt.Fprintf(s, "  %s\n", k.Line)
	}
}

func orNotYet(at string, l nixLine) string {
	if at != "" {
		return "by " + at
	}
	return "which nix.conf does not name yet: " + l.String()
}

// circleOf returns the circle that this machine is in; it is an error if it is in none.
func circleOf(c *cli.Context) (dir string, now *circle.Circle, err error) {
	if dir, err = stateDir(c); err != nil {
		return dir, nil, err
	}
	if now, err = circle.Load(dir); err != nil {
		return dir, nil, rootHint(err)
	}
	if now == nil {
		return dir, nil, fmt.Errorf("this machine is in no circle (%s is not there): `narbor circle init NAME` makes one, "+
			"`narbor circle join FILE` joins one", circle.File(dir))
	}
	return dir, now, nil
}

func circleRotateCommand() *cli.Command {
	return &cli.Command{
		Name:  "rotate",
		Usage: "give the circle a new secret and a new key, as to expel a member",
		Description: "It runs on the machine that signs. Members join again with the new file (narbor circle join --replace); a\n" +
			"machine that does not get it is expelled. What the old key has signed is not believed any more, where its line is\n" +
			"taken out of nix.conf. Sign it again: nix store sign --key-file FILE PATH…\n\n" +
			"Nix remembers narinfos for 30 days, with the old signatures, and so ignores the new ones: it builds or asks another\n" +
			"substituter. `--option narinfo-cache-positive-ttl 0` makes it ask again.\n\n" +
			"Example: sudo narbor circle rotate --write",
		Flags: []cli.Flag{circleStateFlag(), fileFlag(),
			writeFlag("also add the new lines to nix.conf, and take the old ones out"),
			&cli.StringFlag{Name: "key", Usage: "write the secret signing key to `FILE` (default: beside the old one)"}},
		Action: rotateCircle,
	}
}

func rotateCircle(c *cli.Context) error {
	dir, now, err := circleOf(c)
	if err != nil {
		return err
	}
	if now.SigningKey == "" {
		return errors.New("this machine does not sign for the circle: rotate on the one that does, and join by the new file here " +
			"(narbor circle join --replace FILE)")
	}
	next, err := circle.New(now.Name)
	if err != nil {
		return err
	}
	next.Keys = now.Keys // the name of the new key follows theirs
	key := c.String("key")
	if key == "" {
		key = filepath.Join(filepath.Dir(now.SigningKey), next.NextKeyName()+".sec")
	}
	if key, err = filepath.Abs(key); err != nil {
		return err
	}
	if err := establish(c, dir, next, key, now); err != nil {
		return err
	}
	s := newScreen(c)
	s.hang("old key", fmt.Sprintf("delete %s once nothing is signed by it", now.SigningKey))
	s.hang("old builds", fmt.Sprintf("members get them no more until they are signed again: nix store sign --key-file %s PATH…", key))
	s.hang("narinfos", "Nix remembers the old ones for 30 days, and ignores what only the old key has signed; "+
		"`--option narinfo-cache-positive-ttl 0` makes it ask again")
	return nil
}

func circleLeaveCommand() *cli.Command {
	return &cli.Command{
		Name:  "leave",
		Usage: "end this machine's membership of the circle",
		Description: "Without narbor's restart it stays a member, and without --write its Nix goes on trusting the circle's key. The\n" +
			"other members notice nothing; to expel a machine, see `narbor circle rotate`.\n\n" +
			"Example: sudo narbor circle leave --write",
		Flags: []cli.Flag{circleStateFlag(), writeFlag("also take the circle's lines out of nix.conf")},
		Action: func(c *cli.Context) error {
			dir, now, err := circleOf(c)
			if err != nil {
				return err
			}
			if err := circle.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
				return rootHint(err)
			}
			s := newScreen(c)
			s.hang("left", "the circle "+now.Name)
			if now.SigningKey != "" {
				s.hang("key", fmt.Sprintf("the secret signing key stays: delete %s if no machine needs it", now.SigningKey))
			}
			if !c.Bool("write") {
				printUnwanted(s, nixLines(*now))
			} else if err := takeOut(c, s, nixLines(*now)); err != nil {
				return err
			}
			restartHint(s)
			return nil
		},
	}
}

// replaceLines takes the old lines out of nix.conf once it has the new ones.
func replaceLines(c *cli.Context, s screen, lines, old []nixLine) error {
	if err := addLines(c, s, lines); err != nil {
		return err
	}
	return takeOut(c, s, old)
}
