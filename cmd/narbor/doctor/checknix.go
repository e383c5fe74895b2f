package doctor

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"time"

	"narbor/cmd/narbor/control"
	"narbor/cmd/narbor/dashboard"
	"narbor/cmd/narbor/exit"
	"narbor/narserve"
	"narbor/store/nixconf"
)

func checkRunning(ctx context.Context, p *patient) []Finding {
	err := p.ctl.Get(ctx, "/status", &p.status)
	p.running = err == nil
	switch {
	case err == nil:
		return []Finding{fine("narbor %s answers, up %s", p.status.Version,
			dashboard.ShortTime(time.Duration(p.status.UptimeSeconds)*time.Second))}
	case exit.Code(err) != exit.NotRunning:
		return []Finding{{Severity: severityError, Text: "narbor cannot be asked: " + err.Error(), Fix: "run this as root"}}
	}
	if f, ok := p.showUnit(ctx, "narbor.service").service(); ok {
		return []Finding{f}
	}
	for _, o := range portOwners("6272") {
		if o.name == "narbor" {
			return []Finding{{Severity: severityError, Text: fmt.Sprintf("narbor runs as process %d, but has no control socket where "+
				"one is looked for", o.pid),
				Fix: "if it was started by hand, run this as the same user, or with its --state-dir or --socket"}}
		}
	}
	f := Finding{Severity: severityError, Text: "narbor is not running"}
	switch {
	case p.nixOS:
		f.Fix = "services.narbor.enable = true;"
	default:
		f.Fix = "install it as a service, or start it by hand with `narbor run`"
		f.Command = self() + " setup"
	}
	return []Finding{f}
}

func (p *patient) thenRestart(command string) string {
	if r := RestartDaemon(p.systemd); r != "" {
		return command + " && " + r
	}
	return command
}

func checkNixAsks(ctx context.Context, p *patient) []Finding {
	urls := p.urls()
	switch {
	case !nixconf.Installed():
		return []Finding{skipped("there is no Nix on this machine to ask narbor")}
	case p.confErr != nil:
		return []Finding{{Severity: severityError, Text: "Nix's configuration cannot be read: " + p.confErr.Error(),
			Fix: "mend that file; Nix refuses it, too"}}
	case len(urls) == 0:
		return []Finding{{Severity: severityError, Text: "narbor does not listen for Nix", Fix: "start it with --listen 127.0.0.1:6272"}}
	}
	var line *nixconf.Line
	for _, l := range nixconf.Lines("substituters") {
		if nixconf.LeadsTo(urls, l.Value) {
			line = &l
		}
	}
	if p.settings.Asks(urls) {
		at := p.settings.Origin
		if line != nil {
			at = line.At
		}
		return append([]Finding{fine("Nix asks %s (%s)", urls[0], at)}, p.checkDaemonAge(ctx)...)
	}
	f := Finding{Severity: severityError, Text: "Nix does not ask narbor: no substituters line names " + urls[0]}
	if line != nil && line.UndoneBy != "" {
		f.Text = fmt.Sprintf("Nix does not ask narbor: %s names it, but the line at %s undoes that", line.At, line.UndoneBy)
	}
	return []Finding{p.adding(f, "extra-substituters", urls[0])}
}

// adding completes a finding that is fixed by one more value for a list of Nix's configuration. The fix names the file
// that Nix reads last; if another tool owns that file, the fix says how to change it with that tool.
func (p *patient) adding(f Finding, name, value string) Finding {
	edit, err := nixconf.AddTo(name, value, "")
	file := edit.File
	if err == nil {
		file, err = edit.Target()
	}
	if err != nil {
		f.Fix = err.Error()
		return f
	}
	f.Fix = fmt.Sprintf("add it to %s", file)
	if line := edit.Below(); line != "" {
		f.Fix += ", below the line at " + line
	}
	f.Command = fmt.Sprintf("%s config nix --add %s", self(), shellQuote(edit.Line))
	if edit.File != nixconf.SystemFile() { // each command of this user reads its own file
		f.AsUser = !p.root
		return f
	}
	f.Safe = true
	if RestartDaemon(p.systemd) == "" && HasDaemon() {
		f.Fix += ", and restart nix-daemon"
	}
	f.Command = p.thenRestart(f.Command)
	return f
}

// self is how to run this program.
func self() string {
	program, err := os.Executable()
	if err != nil {
		return "narbor"
	}
	if found, err := exec.LookPath("narbor"); err == nil {
		a, errA := os.Stat(found)
		b, errB := os.Stat(program)
		if errA == nil && errB == nil && os.SameFile(a, b) {
			return "narbor"
		}
	}
	return shellQuote(program)
}

// AsRoot is how to run a command as root from here.
func AsRoot(command string) string {
	if os.Geteuid() == 0 {
		return command
	}
	return "sudo sh -c " + shellQuote(command)
}

// checkDaemonAge reports whether nix-daemon answers, and has read the configuration as it is now.
func (p *patient) checkDaemonAge(ctx context.Context) []Finding {
	if found := p.checkDaemon(ctx, daemonSocket()); len(found) > 0 {
		return found
	}
	pid, started := Daemon()
	file := changedSince(started, nixconf.SystemFiles())
	if pid == 0 || file == "" {
		return nil
	}
	return []Finding{{Severity: severityWarning,
		Text: fmt.Sprintf("nix-daemon runs since before %s was changed last, and has not read it since", file),
		Fix:  "restart nix-daemon", Command: RestartDaemon(p.systemd), Safe: true}}
}

func checkSignatures(_ context.Context, p *patient) []Finding {
	if p.confErr != nil || !nixconf.Installed() {
		return []Finding{skipped("there is no configuration of Nix to look at")}
	}
	if p.settings.RequireSigs {
		return []Finding{fine("Nix requires signatures")}
	}
	f := Finding{Severity: severityError,
		Text: "require-sigs is off: Nix accepts unsigned paths from every substituter, with or without narbor",
		Fix:  "take that line out of its configuration"}
	for _, l := range nixconf.Lines("require-sigs") {
		if l.UndoneBy == "" {
			f.Text += " (" + l.At + ")"
			f.Command = p.thenRestart(fmt.Sprintf("%s config nix --remove %s", self(), shellQuote(l.At)))
		}
	}
	if p.nixOS {
		f.Fix, f.Command = "nix.settings.require-sigs = true;", ""
	}
	return []Finding{f}
}

func checkKeys(_ context.Context, p *patient) []Finding {
	if keys := p.status.Keys; len(keys) > 0 {
		return append([]Finding{fine("what %s has signed is believed", strings.Join(keys, " or "))}, p.privateKeys()...)
	}
	f := p.adding(Finding{Severity: severityError, Text: "no key is trusted, so nothing from a neighbour can be believed"},
		"extra-trusted-public-keys", "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=")
	f.Fix = "give Nix the key of its substituter, such as that of cache.nixos.org: " + f.Fix + "; narbor reads it by itself"
	return []Finding{f}
}

func checkProbe(ctx context.Context, p *patient) []Finding {
	if len(p.urls()) == 0 {
		return []Finding{skipped("probe: narbor does not listen for Nix")}
	}
	narinfo := p.urls()[0] + "/" + strings.Repeat("a", 32) + ".narinfo"
	ctx, cancel := context.WithTimeout(ctx, 5*ProbeLimit)
	defer cancel()
	start := time.Now()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, narinfo, nil)
	if err != nil {
		return []Finding{{Severity: severityError, Text: err.Error()}}
	}
	req.Header.Set("User-Agent", narserve.DoctorAgent)
	resp, err := (&http.Client{Transport: &http.Transport{Proxy: nil}}).Do(req)
	took := time.Since(start)
	f := Finding{Severity: severityError, Fix: "look at its log, and start it again"}
	if p.systemd {
		f.Command, f.Safe = "systemctl restart narbor", true
	}
	switch {
	case err != nil:
		f.Text = fmt.Sprintf("Nix gets no answer from %s: %v", p.urls()[0], control.BareError(err))
	case resp.StatusCode != http.StatusNotFound:
		f.Text = fmt.Sprintf("Nix gets %s for an unknown path, and not 404: is another program at %s?", resp.Status, p.urls()[0])
	case took > ProbeLimit:
		f.Severity, f.Text, f.Fix, f.Command = severityWarning, fmt.Sprintf("Nix waits %.1f s for 404", took.Seconds()),
			"see what keeps this machine busy", ""
	default:
		f = fine("an unknown path is answered with 404 in %.0f ms", float64(took.Microseconds())/1000)
	}
	if resp != nil {
		resp.Body.Close()
	}
	return []Finding{f}
}
