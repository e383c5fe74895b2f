package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	// unitTimeout bounds a question to systemd, which answers within milliseconds.
	unitTimeout = 5 * time.Second
	// NotWorking is how the status of narbor.service begins while it answers Nix 404 and can do nothing else.
	NotWorking = "Not working: "
	// defaultSettings is the file of settings that the units read.
	defaultSettings = "/etc/default/narbor"
)

// HasSystemd reports whether systemd runs this machine.
func HasSystemd() bool {
	_, err := os.Stat("/run/systemd/system")
	return err == nil
}

// A unit has the properties of a systemd unit by their names.
type unit map[string]string

// showUnit asks systemd about a unit. Without systemd it returns nil, which is a unit that is not loaded.
func (p *patient) showUnit(ctx context.Context, name string) unit {
	if !p.systemd {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, unitTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, "systemctl", "show",
		"--property=LoadState,ActiveState,SubState,Result,StatusText,ExecMainStatus,FragmentPath,EnvironmentFiles", name).Output()
	if err != nil {
		return nil
	}
	return parseUnit(string(out))
}

func parseUnit(text string) unit {
	u := unit{}
	for line := range strings.Lines(text) {
		if name, value, found := strings.Cut(strings.TrimRight(line, "\n"), "="); found {
			if earlier, several := u[name]; several {
				value = earlier + "\n" + value
			}
			u[name] = value
		}
	}
	return u
}

func (u unit) loaded() bool { return u["LoadState"] == "loaded" }

// settings are the files from which the unit has its environment.
func (u unit) settings() string {
	file, _, _ := strings.Cut(u["EnvironmentFiles"], " (")
	if file == "" {
		return defaultSettings
	}
	return file
}

// service returns the finding about narbor.service that its state in systemd explains; ok is false if there is none.
func (u unit) service() (f Finding, ok bool) {
	f.Severity = severityError
	reason, fails := strings.CutPrefix(u["StatusText"], NotWorking)
	switch {
	case u["LoadState"] == "masked":
		f.Text, f.Fix = "narbor.service is masked, so it cannot start", "unmask it, and start it"
		f.Command = "systemctl unmask narbor.socket narbor.service && systemctl enable --now narbor.socket narbor.service"
	case !u.loaded():
		return f, false
	case fails:
		f.Text = "narbor.service cannot work: " + reason
		f.Fix = fmt.Sprintf("mend that setting, which is in %s, in the file of NARBOR_CONFIG or in the unit, and then: systemctl "+
			"restart narbor", u.settings())
	case u["SubState"] == "auto-restart" || u["ActiveState"] == "failed":
		f.Text = fmt.Sprintf("narbor.service ends as soon as it is started (%s, exit status %s)", u["Result"], u["ExecMainStatus"])
		f.Fix = "see why: journalctl -u narbor -e"
	case u["ActiveState"] == "inactive":
		f.Text = fmt.Sprintf("narbor is not running: narbor.service (%s) is stopped", u["FragmentPath"])
		f.Fix, f.Command, f.Safe = "start it, now and at each boot", "systemctl enable --now narbor.socket narbor.service", true
	default:
		return f, false
	}
	return f, true
}

// PackagedUnit returns narbor.service as a package has installed it, or "".
func PackagedUnit(root string) string {
	for _, dir := range []string{"usr/lib/systemd/system", "lib/systemd/system"} {
		file := filepath.Join(root, dir, "narbor.service")
		if _, err := os.Stat(file); err == nil {
			return file
		}
	}
	return ""
}

// checkDaemon reports whether nix-daemon can be asked, where there is one: its socket stays when it dies.
func (p *patient) checkDaemon(ctx context.Context, socket string) []Finding {
	c, err := (&net.Dialer{Timeout: ProbeLimit}).DialContext(ctx, "unix", socket)
	if err == nil {
		c.Close()
		return nil
	}
	units := slices.DeleteFunc([]string{"nix-daemon.socket", "nix-daemon.service"},
		func(name string) bool { return !p.showUnit(ctx, name).loaded() })
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) && len(units) == 0 {
		return nil // it is another user's to ask, or there is none
	}
	f := Finding{Severity: severityError, Text: "nix-daemon does not answer, so nothing is built or fetched here: " + err.Error(),
		Fix: "start nix-daemon"}
	if len(units) > 0 {
		f.Command, f.Safe = "systemctl start "+strings.Join(units, " "), true
		if u := p.showUnit(ctx, "nix-daemon.service"); u["ActiveState"] == "failed" {
			f.Text += fmt.Sprintf(" (nix-daemon.service failed: %s)", u["Result"])
		}
	}
	return []Finding{f}
}
