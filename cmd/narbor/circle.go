package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"narbor/cmd/narbor/circle"
	"narbor/cmd/narbor/control"
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

func writeFlag(usage string) cli.Flag { return &cli.BoolFlag{Name: "write", Usage: usage} }

func fileFlag() cli.Flag {
	return &cli.StringFlag{Name: "file", Usage: "write what other members need to `FILE` (default: NAME.circle in this directory)"}
}

func circleStateFlag() cli.Flag {
	f := stateFlag()
	f.Category, f.Usage = "", "`DIR` of narbor's state (default: /var/lib/narbor for root, else ~/.local/state/narbor)"
	return f
}

func circleInitCommand() *cli.Command {
	return &cli.Command{
		Name:      "init",
		Usage:     "make a circle, and the key that signs what is built here",
		ArgsUsage: "NAME",
		Description: "It makes the group's secret and a signing key for Nix, and writes a file for the other members: that has the\n" +
			"secret, and the public part of the key. Take it to each by a safe way, such as scp, and delete it then.\n\n" +
			"Example: sudo narbor circle init home --write",
		Flags: []cli.Flag{circleStateFlag(), fileFlag(), writeFlag("also add the two lines to nix.conf"),
			&cli.StringFlag{Name: "key",
				Usage: "write the secret signing key to `FILE` (default: NAME-1.sec in the directory of nix.conf)"}},
		Action: func(c *cli.Context) error {
			if c.NArg() != 1 {
				return control.WithCode(errors.New("make which circle? Say a name, such as home"), control.ExitUsage)
			}
			return initCircle(c, c.Args().First())
		},
	}
}

func initCircle(c *cli.Context, name string) error {
	made, err := circle.New(name)
	if err != nil {
		return control.WithCode(err, control.ExitUsage)
	}
	dir, err := circleDir(c)
	if err != nil {
		return err
	}
	if now, err := circle.Load(dir); err != nil || now != nil {
		return inCircle(now, err)
	}
	key := c.String("key")
	if key == "" {
		key = filepath.Join(filepath.Dir(nixconf.SystemFile()), made.NextKeyName()+".sec")
	}
	return establish(c, dir, made, key, nil)
}

// inCircle is the error that a machine is in a circle already.
func inCircle(now *circle.Circle, err error) error {
	if err != nil {
		return err
	}
	return fmt.Errorf("this machine is in the circle %s already, and nothing was changed: see `narbor circle show`; "+
		"`narbor circle leave` ends that", now.Name)
}

// establish makes a key for a circle, and writes both to this machine. Before nil, the circle is new here. If a step
// fails, what the ones before it have made is deleted.
func establish(c *cli.Context, dir string, made circle.Circle, key string, before *circle.Circle) (err error) {
	if key, err = filepath.Abs(key); err != nil {
		return err
	}
	if strings.ContainsAny(key, " \t\n#") { // nix.conf could not name it
		return control.WithCode(fmt.Errorf("--key %q: nix.conf cannot name a file with a space or # in its path", key), control.ExitUsage)
	}
	if err := mayEdit(c, nixLine{"trusted-public-keys", "x"}, nixLine{"secret-key-files", key}); err != nil {
		return err
	}
	file := c.String("file")
	if file == "" {
		file = made.Name + ".circle"
	}
	var undo []string
	defer func() {
		for _, name := range undo {
			if err != nil {
				err = errors.Join(err, os.Remove(name))
			}
		}
	}()
	if err := made.MakeKey(key); err != nil {
		return rootHint(fmt.Errorf("signing key: %w (--key)", err))
	}
	undo = append(undo, key)
	if err := made.WriteInvitation(file); err != nil {
		return fmt.Errorf("file for other members: %w (--file)", err)
	}
	undo = append(undo, file)
	if err := made.Save(dir, before != nil); err != nil {
		return rootHint(err)
	}
	undo = nil
	s := newScreen(c)
	s.hang("made", fmt.Sprintf("the circle %s, with the key %s (secret part: %s)", made.Name, keyName(made.Keys[0]), key))
	s.hang("for others", fmt.Sprintf("%s: take it to each member, run `sudo narbor circle join %s --write` there, and delete it then",
		file, filepath.Base(file)))
	return tellNixOfCircle(c, s, made, before)
}

// rootHint adds what to do to an error of permissions.
func rootHint(err error) error {
	if errors.Is(err, os.ErrPermission) && os.Geteuid() != 0 {
		return fmt.Errorf("%w: run this as root", err)
	}
	return err
}

// circleDir returns the state directory, and makes it if there is none.
func circleDir(c *cli.Context) (string, error) {
	dir, err := stateDir(c)
	if err == nil {
		err = rootHint(makeStateDir(dir))
	}
	return dir, err
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
				return control.WithCode(errors.New("join by which file? Say the one that `narbor circle init` has written"),
					control.ExitUsage)
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
