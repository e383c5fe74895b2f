package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/urfave/cli/v2"

	"narbor/store"
)

func unsetupCommand() *cli.Command {
	return &cli.Command{
		Name:  "unsetup",
		Usage: "undo what setup did",
		Description: "First Nix stops asking, then narbor stops listening: a Nix older than 2.32 fails a build whose substituter\n" +
			"refuses connections. What narbor keeps in /var/lib/narbor stays; remove it by hand if you like.\n\n" +
			"Example: sudo narbor unsetup",
		Flags: setupFlags(),
		Action: func(c *cli.Context) error {
			s, err := newSetup(c)
			if err != nil {
				return err
			}
			return s.remove()
		},
	}
}

// remove undoes install in the safe order: once Nix asks no more, narbor may stop listening.
func (s setup) remove() error {
	if s.nix {
		if err := s.untellNix(); err != nil || s.only {
			return err
		}
	}
	if s.darwin {
		_ = s.run("launchctl", "bootout", "system/io.narbor") // it may be stopped already
		return s.removeFiles(launchdFile, installedBinary)
	}
	if s.systemd {
		if _, err := os.Stat(filepath.Join(systemdUnits, "narbor.service")); err == nil {
			if err := s.run("systemctl", "disable", "--now", "narbor.service", "narbor.socket"); err != nil {
				return err
			}
			s.did("stopped")
		}
	}
	if err := s.removeFiles(filepath.Join(systemdUnits, "narbor.service"), filepath.Join(systemdUnits, "narbor.socket"), installedBinary); err != nil {
		return err
	}
	if s.systemd {
		return s.run("systemctl", "daemon-reload")
	}
	return nil
}

func (s setup) removeFiles(files ...string) error {
	for _, f := range files {
		switch err := os.Remove(f); {
		case err == nil:
			s.did("removed %s", f)
		case !errors.Is(err, fs.ErrNotExist):
			return err
		}
	}
	return nil
}

// untellNix takes the line out of nix.conf, and makes sure that nobody asks any more. If it cannot, narbor goes on.
func (s setup) untellNix() error {
	text, err := os.ReadFile(nixConfFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	kept, found := withoutLine(string(text))
	if found {
		if err := writeFile(nixConfFile, []byte(kept), modeOf(nixConfFile)); err != nil {
			return err
		}
		s.did("took narbor's line out of %s", nixConfFile)
	}
	if settings, err := store.ReadNixSettings(s.ctx); err == nil && hasNix() &&
		slices.ContainsFunc(settings.Substituters, func(sub string) bool { return isOneOf([]string{nixURL}, sub) }) {
		where := settings.Origin
		for _, l := range store.NixConfLines("substituters") {
			if isOneOf([]string{nixURL}, l.Value) && l.UndoneBy == "" {
				where = l.At
			}
		}
		return fmt.Errorf("%s still names %s, so narbor goes on: take that out first, for a Nix that is refused fails builds", where, nixURL)
	}
	if found {
		if err := s.restartDaemon(); err != nil {
			return err
		}
	}
	for _, p := range daemonProcesses("/proc", bootTime()) {
		switch {
		case !readBefore(p.started):
		case !p.worker:
			return codedError{errors.New("nix-daemon still asks narbor, which goes on: restart nix-daemon, and then run `narbor unsetup` again"), exitTemporary}
		case p.asksFor("/proc"):
			return codedError{fmt.Errorf("a build that began before this still asks narbor, which goes on: when process %d has ended, run `narbor unsetup` again", p.pid), exitTemporary}
		}
	}
	return nil
}
