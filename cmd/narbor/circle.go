package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/urfave/cli/v2"

	"narbor/cmd/narbor/circle"
	"narbor/cmd/narbor/control"
	"narbor/cmd/narbor/exit"
	"narbor/store/nixconf"
)

func circleCommand() *cli.Command {
	return &cli.Command{
		Name:  "circle",
		Usage: "share own builds with the machines of a circle",
		Description: "The members of a circle get each other's own builds, and no other machine does. Nix signs them on the machine\n" +
			"that builds; narbor only transfers. The holder of the circle's signing key can run code on all members.\n\n" +
			"Examples:\n   sudo narbor circle init home --write\n   sudo narbor circle join home.circle --write",
		Subcommands: []*cli.Command{circleInitCommand(), circleJoinCommand(), circleShowCommand(), circleRotateCommand(),
			circleLeaveCommand()},
	}
}

func circleJoinCommand() *cli.Command {
	return &cli.Command{
		Name:      "join",
		Usage:     "become a member of a circle, by the file that init or rotate has written",
		ArgsUsage: "FILE",
		Description: "From then on this machine's Nix believes what the circle's key has signed, as soon as nix.conf has the line\n" +
			"for it: the holder of the circle's signing key can run code on this machine.\n\n" +
			"Example: sudo narbor circle join home.circle --write",
		Flags: []cli.Flag{circleStateFlag(), writeFlag("also add the line to nix.conf"),
			&cli.BoolFlag{Name: "replace", Usage: "take the file in the place of the circle that this machine is in, as after a rotation"}},
		Action: func(c *cli.Context) error {
			if c.NArg() != 1 {
				return exit.With(errors.New("join by which file? Say the one that `narbor circle init` has written"),
					exit.Usage)
			}
			return joinCircle(c, c.Args().First())
		},
	}
}

func joinCircle(c *cli.Context, file string) error {
	joined, err := circle.ReadInvitation(file)
	if err != nil {
		return rootHint(err)
	}
	dir, err := circleDir(c)
	if err != nil {
		return err
	}
	now, err := circle.Load(dir)
	switch {
	case err != nil:
		return err
	case now != nil && !c.Bool("replace"):
		return fmt.Errorf("this machine is in the circle %s already, and nothing was changed: --replace takes %s in its place", now.Name,
			file)
	case now != nil && now.SigningKey != "":
		return fmt.Errorf("this machine signs for the circle %s, and nothing was changed: `narbor circle leave` first", now.Name)
	}
	if err := noOtherKey(c, joined); err != nil {
		return err
	}
	if err := mayEdit(c, nixLine{"trusted-public-keys", "x"}); err != nil {
		return err
	}
	if err := joined.Save(dir, now != nil); err != nil {
		return rootHint(err)
	}
	s := newScreen(c)
	s.hang("joined", fmt.Sprintf("the circle %s; delete %s", joined.Name, file))
	return tellNixOfCircle(c, s, joined, now)
}

// noOtherKey fails if Nix trusts another key of the same name: of two, only the first counts.
func noOtherKey(c *cli.Context, joined circle.Circle) error {
	settings, err := nixconf.Read(c.Context)
	if err != nil {
		return fmt.Errorf("configuration of Nix: %w", err)
	}
	for _, key := range joined.Keys {
		for _, trusted := range settings.TrustedPublicKeys {
			if keyName(trusted) == keyName(key) && trusted != key {
				return fmt.Errorf("another key called %s is trusted by Nix, so the circle's would not count, and nothing was "+
					"changed: take that line out of nix.conf", keyName(key))
			}
		}
	}
	return nil
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
			return show(c, r, r.print)
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
