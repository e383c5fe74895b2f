package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"narbor/cmd/narbor/circle"
	"narbor/cmd/narbor/exit"
	"narbor/store/nixconf"
)

func writeFlag(usage string) cli.Flag { return &cli.BoolFlag{Name: "write", Usage: usage} }

func fileFlag() cli.Flag {
	return &cli.StringFlag{Name: "file", Usage: "write what other members need to `FILE` (default: NAME.circle in this directory)"}
}

func circleStateFlag() cli.Flag {
	f := stateFlag()
	f.Category, f.Usage = "", "`DIR` of narbor's state (default: /var/lib/narbor for root, else ~/.local/state/narbor)"
	return f
}

// circleDir returns the state directory, and makes it if there is none.
func circleDir(c *cli.Context) (string, error) {
	dir, err := stateDir(c)
	if err == nil {
		err = rootHint(makeStateDir(dir))
	}
	return dir, err
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
				return exit.With(errors.New("make which circle? Say a name, such as home"), exit.Usage)
			}
			return initCircle(c, c.Args().First())
		},
	}
}

func initCircle(c *cli.Context, name string) error {
	made, err := circle.New(name)
	if err != nil {
		return exit.With(err, exit.Usage)
	}
	dir, err := circleDir(c)
	if err != nil {
		return err
	}
	if now, err := circle.Load(dir); err != nil || now != nil {
		return inCircle(now, err)
	}
	if made.SigningKey = c.String("key"); made.SigningKey == "" {
		made.SigningKey = filepath.Join(filepath.Dir(nixconf.SystemFile()), made.NextKeyName()+".sec")
	}
	return establish(c, dir, made, nil)
}

// inCircle is the error that a machine is in a circle already.
func inCircle(now *circle.Circle, err error) error {
	if err != nil {
		return err
	}
	return fmt.Errorf("this machine is in the circle %s already, and nothing was changed: see `narbor circle show`; "+
		"`narbor circle leave` ends that", now.Name)
}

// establish makes the signing key of a circle, and writes both to this machine. Before nil, the circle is new here. If a
// step fails, what the ones before it have made is deleted.
func establish(c *cli.Context, dir string, made circle.Circle, before *circle.Circle) (err error) {
	key, err := filepath.Abs(made.SigningKey)
	if err != nil {
		return err
	}
	if strings.ContainsAny(key, " \t\n#") { // nix.conf could not name it
		return exit.With(fmt.Errorf("--key %q: nix.conf cannot name a file with a space or # in its path", key), exit.Usage)
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
	if next.SigningKey, err = filepath.Abs(key); err != nil {
		return err
	}
	if err := establish(c, dir, next, now); err != nil {
		return err
	}
	s := newScreen(c)
	s.hang("old key", fmt.Sprintf("delete %s once nothing is signed by it", now.SigningKey))
	s.hang("old builds", fmt.Sprintf("members get them no more until they are signed again: nix store sign --key-file %s PATH…",
		next.SigningKey))
	s.hang("narinfos", "Nix remembers the old ones for 30 days, and ignores what only the old key has signed; "+
		"`--option narinfo-cache-positive-ttl 0` makes it ask again")
	return nil
}
