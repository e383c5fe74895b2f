package doctor

import (
	"fmt"

	"narbor/cmd/narbor/control"
	"narbor/store/nixconf"
)

const (
	severityOK      = control.SeverityOK
	severityInfo    = control.SeverityInfo
	severityWarning = control.SeverityWarning
	severityError   = control.SeverityError
	severitySkipped = control.SeveritySkipped
)

// Finding is the result of one check of `narbor doctor`. Its command is for a root shell.
type Finding = control.Health

func fine(format string, args ...any) Finding {
	return Finding{Severity: severityOK, Text: fmt.Sprintf(format, args...)}
}

func skipped(format string, args ...any) Finding {
	return Finding{Severity: severitySkipped, Text: fmt.Sprintf(format, args...)}
}

// A patient has the state that the checks examine. Earlier checks fill in fields that later ones use.
type patient struct {
	ctl      control.Client
	root     bool
	systemd  bool // it runs this machine
	nixOS    bool
	settings nixconf.Settings
	confErr  error
	running  bool
	status   control.Status // if running
	heard    hearing
	nix      nixProgram          // the Nix that uses narbor as a substituter, once asksNix has found it
	conf     map[string][]string // its settings
	nixErr   error
}

type hearing struct {
	done  bool
	peers map[string][]string // host:port by peer ID
	err   error
}

func (p *patient) urls() []string {
	if !p.running {
		return []string{NixURL}
	}
	var urls []string
	for _, addr := range p.status.HTTP {
		urls = append(urls, "http://"+addr)
	}
	return urls
}

// port is where neighbours reach the narbor that runs.
func (p *patient) port() string {
	for _, addr := range p.status.Addrs {
		if _, port, ok := cutLast(addr, "/tcp/"); ok {
			return port
		}
	}
	return "6273"
}
