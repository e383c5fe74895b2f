package main

import (
	"context"
	"errors"
	"fmt"

	"narbor/cmd/narbor/doctor"
	"narbor/store/nixconf"
)

// confMark is the comment by which a user recognizes narbor's line.
const confMark = " # narbor"

func (s setup) asksNarbor(ctx context.Context) (bool, error) {
	settings, err := nixconf.Read(ctx)
	if err != nil {
		return false, fmt.Errorf("configuration of Nix: %w", err)
	}
	return settings.Asks([]string{doctor.NixURL}), nil
}

// mayTellNix fails if the file that [setup.tellNix] would change is another tool's: nothing is installed then.
func (s setup) mayTellNix(ctx context.Context) error {
	if !nixconf.Installed() {
		return nil
	}
	asks, err := s.asksNarbor(ctx)
	if err != nil || asks {
		return err
	}
	edit, err := nixconf.AddTo("extra-substituters", doctor.NixURL, confMark)
	if err == nil {
		_, err = edit.Target()
	}
	if foreign := (*nixconf.ForeignFile)(nil); errors.As(err, &foreign) && !s.only {
		return fmt.Errorf("%w. `narbor setup --no-nix` does the rest", err)
	}
	return err
}

// tellNix adds the line at the end, below any line that would undo it, and has it read.
func (s setup) tellNix(ctx context.Context) error {
	if !nixconf.Installed() {
		s.did("there is no Nix on this machine; narbor shares its cache directory")
		return nil
	}
	asks, err := s.asksNarbor(ctx)
	if err != nil {
		return err
	}
	if asks {
		s.did("Nix asks narbor already")
		return nil
	}
	edit, err := nixconf.AddTo("extra-substituters", doctor.NixURL, confMark)
	if err != nil {
		return err
	}
	file, err := edit.Apply(ctx)
	if err != nil {
		return err
	}
	s.did("added to %s:", file)
	fmt.Fprintf(s, "     %s\n", edit.Line) // never wrapped: it is to be found again
	return s.restartDaemon(ctx)
}

// restartDaemon makes nix-daemon read its configuration, or asks for that.
func (s setup) restartDaemon(ctx context.Context) error {
	command := doctor.RestartDaemon(s.systemd)
	pid, _ := doctor.Daemon()
	active := s.systemd && s.run(ctx, "systemctl", "--quiet", "is-active", "nix-daemon.service") == nil
	switch {
	case s.systemd && !active && pid == 0, !doctor.HasDaemon():
		s.did("nix-daemon does not run; it reads its configuration when it starts")
		return nil
	case command == "" || !s.restart || s.systemd && !active:
		s.todo("restart nix-daemon, which builds that run outlast: only then does it read its configuration")
		return nil
	}
	if err := s.run(ctx, "sh", "-c", command); err != nil {
		return err
	}
	s.did("restarted nix-daemon")
	return nil
}
