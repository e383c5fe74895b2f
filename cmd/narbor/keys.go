package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"narbor/store"
	"narbor/trust"
)

// KeyList is what `narbor keys --json` prints.
type KeyList struct {
	Schema int   `json:"schema"`
	Keys   []Key `json:"keys"`
}

// Key is a public key in force.
type Key struct {
	Name   string `json:"name"`
	Public string `json:"public"` // name:base64
	From   string `json:"from"`   // where it was learned
	Shares bool   `json:"shares"` // what it has signed is given to neighbours
	Own    bool   `json:"own"`    // this machine signs its own builds with it
}

// keyList says where each key in force comes from. Of two with one name the first counts, as in Nix.
func (s *service) keyList() KeyList {
	settings := s.settings.get()
	places := map[string]string{}
	for _, l := range store.NixConfLines("trusted-public-keys") {
		if l.UndoneBy == "" {
			places[l.Value] = l.At
		}
	}
	own, _ := ownKeys(settings.SecretKeyFiles)
	list := KeyList{Schema: jsonSchema, Keys: []Key{}}
	add := func(keys []string, otherwise string) {
		for _, key := range keys {
			name, _, _ := strings.Cut(key, ":")
			if _, err := trust.ParseKeys([]string{key}); err != nil || slices.ContainsFunc(list.Keys, func(k Key) bool { return k.Name == name }) {
				continue
			}
			list.Keys = append(list.Keys, Key{Name: name, Public: key, From: cmp.Or(places[key], otherwise), Shares: slices.Contains(s.shareKeys.Names(), name),
				Own: len(trust.Upstream([]string{key}, own)) == 0})
		}
	}
	add(s.keys, "--trusted-key")
	add(settings.TrustedPublicKeys, "Nix's defaults") // for no file says so
	add(own, "secret-key-files")
	return list
}

func keysCommand() *cli.Command {
	return &cli.Command{
		Name:  "keys",
		Usage: "list the keys whose signatures are believed, and where each comes from",
		Description: "They are those of this machine's Nix, read again when its configuration changes, and those of\n" +
			"--trusted-key. What one of them has signed is taken from neighbours. It is shared with neighbours too,\n" +
			"unless the key is this machine's own. Exit code 4 means that there is none.\n\n" +
			"Example: narbor keys --json",
		Flags: controlFlags(),
		Action: func(c *cli.Context) error {
			ctl, err := newControl(c)
			if err != nil {
				return err
			}
			var list KeyList
			if err := ctl.get(c.Context, "/keys", &list); err != nil {
				return err
			}
			if c.Bool("json") {
				err = printJSON(c.App.Writer, list)
			} else {
				list.print(newScreen(c))
			}
			if err == nil && len(list.Keys) == 0 {
				err = codedError{fmt.Errorf("no key is trusted, so nothing from a neighbour is believed: add one to trusted-public-keys in nix.conf"), exitDegraded}
			}
			return err
		},
	}
}

func (l KeyList) print(s screen) {
	for i, k := range l.Keys {
		if i > 0 {
			fmt.Fprintln(s)
		}
		fmt.Fprintln(s, s.paint(bold, k.Name))
		s.field("  key", "%s", strings.TrimPrefix(k.Public, k.Name+":"))
		s.field("  from", "%s", k.From)
		switch {
		case k.Shares:
			s.field("  shared", "yes: what it has signed may go to neighbours")
		case k.Own:
			s.field("  shared", "no: it is this machine's own: your builds stay here")
		default:
			s.field("  shared", "no: some file of secret-key-files cannot be read, so any key may be this machine's own")
		}
	}
}
