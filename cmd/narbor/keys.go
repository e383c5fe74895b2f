package main

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"narbor/cmd/narbor/control"
	"narbor/cmd/narbor/exit"
)

const classPublic, classPrivate = "public", "private"

func keysCommand() *cli.Command {
	return &cli.Command{
		Name:  "keys",
		Usage: "list the trusted keys, and where each comes from",
		Description: "They are those of this machine's Nix, read again when its configuration changes, and those of\n" +
			"--trusted-key. What one of them has signed is taken from neighbours. What a public key has signed is shared\n" +
			"with every neighbour. Public are cache.nixos.org-1, keys that are called after the host of a configured https\n" +
			"cache that needs no password, and those of --share-key. What only private keys have signed is shared with\n" +
			"members of the group alone. What was built here is not shared, whatever has signed it, unless it is a key of\n" +
			"--circle-key: then members of the group may have it.\n\n" +
			"Exit code 4 means that there is no key.\n\n" +
			"Example: narbor keys --json",
		Flags: controlFlags(),
		Action: func(c *cli.Context) error {
			list, err := askRunning[control.KeyList](c, "/keys")
			if err != nil {
				return err
			}
			err = show(c, list, func(s screen) { printKeys(list, s) })
			if err == nil && len(list.Keys) == 0 {
				err = exit.With(fmt.Errorf("no key is trusted, so nothing from a neighbour is believed: "+
					"add one to trusted-public-keys in nix.conf"), exit.Degraded)
			}
			return err
		},
	}
}

func printKeys(l control.KeyList, s screen) {
	for i, k := range l.Keys {
		if i > 0 {
			fmt.Fprintln(s)
		}
		fmt.Fprintln(s, s.paint(bold, k.Name))
		s.field("  key", "%s", strings.TrimPrefix(k.Public, k.Name+":"))
		s.field("  from", "%s", k.From)
		s.field("  "+k.Class, "%s", k.Why)
		switch {
		case k.Class == classPublic && k.Shares:
			s.field("  shared", "with every neighbour")
		case k.Shares:
			s.field("  shared", "with members of the group")
		default:
			s.field("  shared", "with no neighbour")
		}
		if k.Circle {
			s.field("  circle", "what was built here and it has signed is shared with members of the group, too")
		}
	}
}
