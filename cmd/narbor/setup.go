package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"narbor/cmd/narbor/control"
	"narbor/cmd/narbor/doctor"
	"narbor/cmd/narbor/exit"
	"narbor/p2p/transport"
	"narbor/store/nixconf"
	"narbor/store/statefile"
)

//go:embed units/narbor.service
var serviceUnit string

//go:embed units/narbor.socket
var socketUnit string

//go:embed units/vsock.conf
var vsockDropIn string

//go:embed units/narbor-refresh.service
var refreshUnit string

//go:embed units/narbor-refresh.timer
var refreshTimerUnit string

//go:embed units/io.narbor.plist
var launchdPlist string

const (
	installedBinary = "/usr/local/bin/narbor"
	systemdUnits    = "/etc/systemd/system"
	dropIns         = systemdUnits + "/narbor.service.d"
	vsockConf       = dropIns + "/vsock.conf"
	refreshTimer    = "narbor-refresh.timer"
	launchdFile     = "/Library/LaunchDaemons/io.narbor.plist"
)

func setupCommand() *cli.Command {
	return &cli.Command{
		Name:  "setup",
		Usage: "install narbor on this machine: the service, and the line in nix.conf",
		Description: "It copies this program to " + installedBinary + ", installs its units for systemd (on macOS for launchd),\n" +
			"starts them, and then lets Nix ask narbor: one line, extra-substituters, in " + doctor.NixConfFile + ". It may be run\n" +
			"again, after an update. On NixOS use the module instead.\n\n" +
			"Example: sudo narbor setup",
		Flags: setupFlags(),
		Action: func(c *cli.Context) error {
			s, err := newSetup(c)
			if err != nil {
				return err
			}
			return s.install(c.Context)
		},
	}
}

func setupFlags() []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{Name: "no-nix", Usage: "leave nix.conf alone"},
		&cli.BoolFlag{Name: "only-nix", Usage: "change nix.conf alone: a package has brought the program and its units"},
		&cli.BoolFlag{Name: "no-restart",
			Usage: "do not restart nix-daemon: until it is, Nix goes by the old nix.conf; builds that run outlast a restart"},
	}
}

func newSetup(c *cli.Context) (setup, error) {
	s := setup{screen: newScreen(c), darwin: runtime.GOOS == "darwin", nix: !c.Bool("no-nix"), only: c.Bool("only-nix"),
		restart: !c.Bool("no-restart"), systemd: doctor.HasSystemd()}
	switch {
	case c.Args().Present():
		return s, exit.With(fmt.Errorf("%s takes no arguments, but got %q", c.Command.Name, c.Args().First()), exit.Usage)
	case s.only && !s.nix:
		return s, exit.With(errors.New("--only-nix and --no-nix leave nothing to do"), exit.Usage)
	case nixconf.OnNixOS():
		return s, errors.New("this is NixOS: use the module, services.narbor.enable = true; (see README)")
	case os.Geteuid() != 0:
		return s, fmt.Errorf("only root can do this: sudo narbor %s", c.Command.Name)
	}
	return s, nil
}

// install does everything in the order in which it is safe: Nix is told last, once narbor answers.
func (s setup) install(ctx context.Context) error {
	if s.nix {
		if err := s.mayTellNix(ctx); err != nil {
			return err
		}
	}
	if !s.only {
		if err := s.installProgram(ctx, doctor.PackagedUnit("/")); err != nil || !s.nix {
			return err
		}
	}
	if !s.answers(ctx) {
		again := "narbor setup"
		if s.only {
			again += " --only-nix"
		}
		s.todo("narbor does not answer yet, so Nix is not told of it. Start it, and then: sudo %s", again)
		return exit.With(errors.New(""), exit.Degraded)
	}
	return s.tellNix(ctx)
}

// installProgram installs program and units, unless packaged, the unit of a package, is there: two of them would hide
// one another.
func (s setup) installProgram(ctx context.Context, packaged string) error {
	if packaged != "" && !s.darwin {
		s.todo("%s belongs to a package, and so does its program: nothing is installed over it", packaged)
		if own := filepath.Join(systemdUnits, "narbor.service"); exists(own) {
			s.todo("%s, of an earlier setup, hides it: `narbor unsetup` removes that; then run setup again", own)
		}
		if !s.systemd {
			return nil
		}
		allowed, err := s.allowVsock()
		if err == nil {
			err = s.run(ctx, "systemctl", "daemon-reload")
		}
		if err == nil && (allowed || startedWithoutVsock(ctx)) {
			err = s.run(ctx, "systemctl", "try-restart", "narbor.service")
		}
		if err != nil {
			return err
		}
		return s.startUnits(ctx, "enable", "--now", "narbor.socket", "narbor.service")
	}
	if err := s.installBinary(); err != nil {
		return err
	}
	if s.darwin {
		return s.installLaunchd(ctx)
	}
	return s.installUnits(ctx)
}

// installBinary copies this program to where the units expect it.
func (s setup) installBinary() error {
	self, err := os.Executable()
	if err == nil {
		self, err = filepath.EvalSymlinks(self)
	}
	if err != nil {
		return err
	}
	if there, err := filepath.EvalSymlinks(installedBinary); err == nil && there == self {
		s.did("%s is this program", installedBinary)
		return nil
	}
	text, err := os.ReadFile(self)
	if err != nil {
		return err
	}
	if err := writeFile(installedBinary, text, 0o755); err != nil {
		return err
	}
	s.did("copied to %s", installedBinary)
	return nil
}

func (s setup) installUnits(ctx context.Context) error {
	if !s.systemd {
		s.todo("systemd does not run here, so no units are installed: start `narbor run` by what starts services here")
		return nil
	}
	service := serviceUnit
	if group, err := os.ReadFile("/etc/group"); err == nil &&
		slices.ContainsFunc(strings.Split(string(group), "\n"), func(l string) bool { return strings.HasPrefix(l, "nix-users:") }) {
		service = strings.Replace(service, "#SupplementaryGroups=nix-users", "SupplementaryGroups=nix-users", 1)
	}
	socket := socketUnit
	if _, err := os.Stat("/proc/thread-self/net/if_inet6"); err != nil {
		socket = strings.Replace(socket, "ListenStream=[::1]:6272\n", "", 1)
	}
	for name, text := range map[string]string{"narbor.service": service, "narbor.socket": socket,
		"narbor-refresh.service": refreshUnit, refreshTimer: refreshTimerUnit} {
		if err := writeFile(filepath.Join(systemdUnits, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	if _, err := s.allowVsock(); err != nil {
		return err
	}
	s.did("installed narbor.service and narbor.socket in %s, and %s, which is off until you enable it", systemdUnits, refreshTimer)
	for _, args := range [][]string{{"daemon-reload"}, {"enable", "--now", "narbor.socket"}, {"enable", "narbor.service"}} {
		if err := s.run(ctx, "systemctl", args...); err != nil {
			return err
		}
	}
	return s.startUnits(ctx, "restart", "narbor.service") // an earlier version may run
}

// allowVsock lets the service use vsock, from its next start on, where the kernel has it. Elsewhere that would be one
// more way out for nothing. changed is false if it was so before.
func (s setup) allowVsock() (changed bool, err error) {
	if !transport.HasVsock() {
		return false, nil
	}
	if old, err := os.ReadFile(vsockConf); err == nil && string(old) == vsockDropIn {
		return false, nil
	}
	if err := writeFile(vsockConf, []byte(vsockDropIn), 0o644); err != nil {
		return false, err
	}
	s.did("installed %s: this machine has vsock", vsockConf)
	return true, nil
}

func (s setup) startUnits(ctx context.Context, args ...string) error {
	if err := s.run(ctx, "systemctl", args...); err != nil {
		return err
	}
	s.did("started, now and at each boot")
	return nil
}

// writeFile makes or replaces a file, and makes its directory.
func writeFile(name string, text []byte, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	return statefile.Replace(name, text, mode)
}

func (s setup) installLaunchd(ctx context.Context) error {
	if err := writeFile(launchdFile, []byte(launchdPlist), 0o644); err != nil {
		return err
	}
	_ = s.run(ctx, "launchctl", "bootout", "system/io.narbor") // an earlier version, if there is one
	if err := s.run(ctx, "launchctl", "bootstrap", "system", launchdFile); err != nil {
		return err
	}
	s.did("installed %s and started it, now and at each boot", launchdFile)
	return nil
}

// answers waits until narbor answers Nix, where a service manager may be starting it.
func (s setup) answers(ctx context.Context) bool {
	client := http.Client{Timeout: doctor.ProbeLimit, Transport: &http.Transport{Proxy: nil, DisableKeepAlives: true}}
	waits := s.systemd || s.darwin || exists("/run/openrc/softlevel")
	for deadline := time.Now().Add(20 * time.Second); ; {
		resp, err := client.Get(doctor.NixURL + "/nix-cache-info")
		if err == nil {
			resp.Body.Close()
			return resp.StatusCode == http.StatusOK
		}
		if withoutNetwork() && servesNix(ctx) {
			return true
		}
		if !waits || time.Now().After(deadline) {
			return false
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// withoutNetwork reports whether this process has another network than the machine. Scripts of packages run in an empty
// one since rpm 4.20, where narbor's port cannot be reached.
func withoutNetwork() bool {
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return false
	}
	first, err := os.Readlink("/proc/1/ns/net")
	return err == nil && own != first
}

// startedWithoutVsock reports whether the service that runs says that its unit forbids vsock: it was started before the
// drop-in was there.
func startedWithoutVsock(ctx context.Context) bool {
	return serviceStatus(ctx).VsockForbidden && transport.HasVsock()
}

// servesNix asks the service at its socket whether it serves Nix at the usual address.
func servesNix(ctx context.Context) bool {
	return slices.Contains(serviceStatus(ctx).HTTP, strings.TrimPrefix(doctor.NixURL, "http://"))
}

// serviceStatus is empty if the service does not answer.
func serviceStatus(ctx context.Context) (st control.Status) {
	ctl := control.Client{Paths: []string{filepath.Join("/run/narbor", control.SocketName)}, Timeout: control.Timeout}
	if ctl.Get(ctx, "/status", &st) != nil {
		return control.Status{}
	}
	return st
}
