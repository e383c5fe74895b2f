package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"narbor/cmd/narbor/doctor"
	"narbor/store/nixconf"
)

func unsetupCommand() *cli.Command {
	return &cli.Command{
		Name:  "unsetup",
		Usage: "undo what setup did",
		Description: "First Nix stops asking, then narbor stops listening: a Nix older than 2.32 fails a build if a substituter\n" +
			"refuses connections. What narbor keeps in /var/lib/narbor stays; remove it by hand if you like.\n\n" +
			"Example: sudo narbor unsetup",
		Flags: setupFlags(),
		Action: func(c *cli.Context) error {
			s, err := newSetup(c)
			if err != nil {
				return err
			}
			return s.remove(c.Context)
		},
	}
}

// remove undoes install in the safe order: once Nix asks no more, narbor may stop listening.
func (s setup) remove(ctx context.Context) error {
	if s.nix {
		if err := s.untellNix(ctx); err != nil || s.only {
			return err
		}
	}
	if s.darwin {
		_ = s.run(ctx, "launchctl", "bootout", "system/io.narbor") // it may be stopped already
		return s.removeFiles(launchdFile, installedBinary)
	}
	packaged, own := doctor.PackagedUnit("/"), filepath.Join(systemdUnits, "narbor.service")
	if packaged != "" && !exists(own) {
		s.todo("%s belongs to a package and goes on: remove the package to stop it, as with `apt remove narbor`", packaged)
		return nil
	}
	if s.systemd {
		if exists(own) {
			units := []string{"disable", "--now", "narbor.service", "narbor.socket"}
			if exists(filepath.Join(systemdUnits, refreshTimer)) { // systemctl fails if it is missing
				units = append(units, refreshTimer)
			}
			if err := s.run(ctx, "systemctl", units...); err != nil {
				return err
			}
			s.did("stopped")
		}
	}
	files := []string{installedBinary, vsockConf}
	for _, name := range []string{refreshTimer, "narbor-refresh.service", "narbor.socket", "narbor.service"} {
		files = append(files, filepath.Join(systemdUnits, name))
	}
	if err := s.removeFiles(files...); err != nil {
		return err
	}
	_ = os.Remove(dropIns) // fails if the user has drop-ins there, and these stay
	if s.systemd {
		if err := s.run(ctx, "systemctl", "daemon-reload"); err != nil {
			return err
		}
	}
	if packaged != "" {
		s.todo("%s belongs to a package and is stopped now. To use it: narbor setup", packaged)
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

// untellNix takes narbor's lines out of Nix's configuration. It fails while Nix may still ask: then narbor goes on.
func (s setup) untellNix(ctx context.Context) error {
	before := doctor.RunningDaemons()
	found := false
	for _, edit := range nixconf.RemoveSubstituters([]string{doctor.NixURL, "http://[::1]:6272", "http://localhost:6272"}) {
		file, err := edit.Apply(ctx)
		if err != nil {
			return err
		}
		if file != "" {
			found = true
			s.did("took narbor's line out of %s", file)
		}
	}
	if err := s.namedElsewhere(ctx); err != nil {
		return err
	}
	if !found {
		before = nil // the clock tells what was running when the line was taken out
	} else if err := s.restartDaemon(ctx); err != nil {
		return err
	}
	return doctor.StillAsked(before)
}

// namedElsewhere fails if another line still makes Nix ask narbor.
func (s setup) namedElsewhere(ctx context.Context) error {
	if !nixconf.Installed() {
		return nil
	}
	settings, err := nixconf.Read(ctx)
	if err != nil || !settings.Asks([]string{doctor.NixURL}) {
		return nil
	}
	where := settings.Origin
	for _, l := range nixconf.Lines("substituters") {
		if nixconf.LeadsTo([]string{doctor.NixURL}, l.Value) && l.UndoneBy == "" {
			where = l.At
		}
	}
	return fmt.Errorf("%s still names %s, so narbor goes on: take that out first, because a Nix before 2.32 fails a build if "+
		"a substituter refuses connections", where, doctor.NixURL)
}
