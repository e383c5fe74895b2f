package doctor

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"narbor/cmd/narbor/control"
	"narbor/p2p/meet"
	"narbor/p2p/netmon"
)

// The firewall is not read but tried: neighbours connect to this machine on request, and packets go through a copy of
// the rules in a network namespace of its own. A port that neither shows is reported as unknown.

// Means of finding out, as `doctor --json` has them.
const (
	byDialBack  = "dial-back" // a neighbour connected, or could not
	byCopy      = "copy"      // packets went through a copy of the rules, or did not
	byMulticast = "multicast" // an announcement came in
)

// Means returns all means that a finding may name.
func Means() []string { return []string{byDialBack, byCopy, byMulticast} }

type doorState int

const (
	doorUnknown doorState = iota
	doorOpen
	doorClosed
	doorBetween // it is open here, and no neighbour gets to it
)

// A door is a port on an interface, with its state as far as it is known.
type door struct {
	proto, port, iface string
	state              doorState
	note               string
	means              []string
}

func (d door) String() string {
	return fmt.Sprintf("%s %s on %s%s", d.proto, d.port, d.iface, d.note)
}

// checkFirewall finds out whether neighbours get in, for the ports and interfaces that narbor uses.
func checkFirewall(ctx context.Context, p *patient) []Finding {
	e := evidence{copies: map[string]copied{}}
	var doors []door
	for _, iface := range p.lanInterfaces() {
		doors = append(doors, door{proto: "TCP", port: p.port(), iface: iface})
		if !p.running || p.status.MDNS {
			doors = append(doors, door{proto: "UDP", port: "5353", iface: iface})
		}
	}
	if len(doors) == 0 {
		return []Finding{skipped("firewall: no network interface is used")}
	}
	if p.running {
		e.dialled, e.noDial = p.dialBacks(ctx)
	}
	for _, d := range doors {
		if _, done := e.copies[d.iface]; !p.root || done || e.noCopy != nil {
			continue
		}
		c, err := tryFirewallCopy(ctx, d.iface, p.port())
		if err != nil {
			e.noCopy = err
			continue
		}
		e.copies[d.iface] = c
	}
	for i := range doors {
		e.judge(&doors[i])
		if d := &doors[i]; d.state == doorUnknown && d.proto == "UDP" && p.hearsOn(ctx, d.iface) {
			d.state, d.means = doorOpen, []string{byMulticast}
		}
	}
	return p.firewallFindings(ctx, doors, e)
}

// lanInterfaces returns the interfaces that narbor uses, or would use if it ran.
func (p *patient) lanInterfaces() (names []string) {
	all := p.status.Interfaces
	if !p.running {
		all, _ = netmon.Interfaces() // none is none
	}
	for _, i := range all {
		if i.Used {
			names = append(names, i.Name)
		}
	}
	return names
}

// hearsOn reports whether an announcement has arrived on the interface. This machine's own one counts: it passes the
// same rules as those of others. With several interfaces the one of an arrival is unknown.
func (p *patient) hearsOn(ctx context.Context, iface string) bool {
	return p.running && p.status.MDNS && slices.Equal(p.status.Used(), []string{iface}) && len(p.listen(ctx).peers) > 0
}

type evidence struct {
	dialled control.DialBackReport
	noDial  error // why neighbours were not asked
	copies  map[string]copied
	noCopy  error // why the rules were not tried
}

// judge sets the state of a door. A neighbour's own connection counts more than the copy of the rules.
func (e evidence) judge(d *door) {
	c, tried := e.copies[d.iface]
	if tried {
		d.means, d.note = []string{byCopy}, c.family(d.proto)
		d.state = doorOpen
		if slices.Contains(c.closed(), d.proto) {
			d.state = doorClosed
		}
	}
	if d.proto != "TCP" {
		return
	}
	switch arrived, failed := e.dialBacks(d.iface); {
	case arrived > 0 && d.state == doorOpen:
		d.means = []string{byDialBack, byCopy}
	case arrived > 0:
		d.state, d.means = doorOpen, []string{byDialBack}
	case failed > 0 && d.state == doorOpen:
		d.state, d.means = doorBetween, []string{byDialBack, byCopy}
	case failed > 0 && d.state == doorClosed:
		d.means = []string{byDialBack, byCopy}
	case failed > 0:
		d.state, d.means = doorClosed, []string{byDialBack}
	}
}

// dialBacks returns how many neighbours on an interface have connected to this machine when asked, and how many failed
// to.
func (e evidence) dialBacks(iface string) (arrived, failed int) {
	for _, d := range e.dialled.DialBacks {
		switch {
		case d.Interface != iface:
		case d.Result == meet.DialReached:
			arrived++
		case d.Result == meet.DialRefused || d.Result == meet.DialTimedOut:
			failed++
		}
	}
	return arrived, failed
}

func (p *patient) firewallFindings(ctx context.Context, doors []door, e evidence) (found []Finding) {
	list := func(s doorState) (text string, means []string) {
		var names []string
		for _, d := range doors {
			if d.state == s {
				names = append(names, d.String())
				means = append(means, d.means...)
			}
		}
		slices.Sort(means)
		return strings.Join(names, ", "), slices.Compact(means)
	}
	if text, means := list(doorClosed); text != "" {
		f := Finding{Severity: severityError, Text: "the firewall keeps neighbours out: " + text + "; " + byWhat(means), Means: means,
			Safe: true}
		p.openingFix(ctx, &f, doors, e)
		found = append(found, f)
	}
	if text, means := list(doorBetween); text != "" {
		found = append(found, Finding{Severity: severityWarning, Means: means,
			Text: "neighbours cannot connect to " + text + ", although this machine's firewall lets them in; " + byWhat(means),
			Fix:  "look for a firewall between them: of a router, a hypervisor or a switch, or client isolation in the access point"})
	}
	if text, _ := list(doorUnknown); text != "" {
		f := skipped("cannot tell whether the firewall lets neighbours in: %s; %s", text, p.whyUnknown(e))
		f.Fix = "start narbor on another machine of this network, then look again: it is asked to connect"
		if !p.root {
			f.Fix = "run `sudo narbor doctor firewall`, which tries the rules, or s" + strings.TrimPrefix(f.Fix, "s")
		}
		found = append(found, f)
	}
	if text, means := list(doorOpen); text != "" {
		f := fine("the firewall lets neighbours in: %s; %s", text, byWhat(means))
		f.Means = means
		found = append(found, f)
	}
	return found
}

// byWhat says for people how something was found out.
func byWhat(means []string) string {
	words := map[string]string{byDialBack: "by asking neighbours to connect", byCopy: "by trying a copy of its rules",
		byMulticast: "by an announcement that has come in"}
	var list []string
	for _, m := range means {
		list = append(list, words[m])
	}
	return "found " + strings.Join(list, " and ")
}

func (p *patient) whyUnknown(e evidence) string {
	var why []string
	switch {
	case !p.running:
		why = append(why, "narbor is not running, so no neighbour can be asked to connect")
	case e.noDial != nil:
		why = append(why, "neighbours were not asked to connect: "+e.noDial.Error())
	case len(e.dialled.DialBacks) == 0:
		why = append(why, "there is no neighbour to be asked to connect")
	default:
		why = append(why, "no neighbour that was asked to connect has tried")
	}
	switch {
	case !p.root:
		why = append(why, "only root may try the rules")
	case e.noCopy != nil:
		why = append(why, e.noCopy.Error())
	}
	return strings.Join(why, ", and ")
}

// openingFix returns the fix that opens the ports, permanently if the tool that keeps the rules is known.
func (p *patient) openingFix(ctx context.Context, f *Finding, doors []door, e evidence) {
	var commands, ifaces []string
	for _, d := range doors {
		if d.state != doorClosed {
			continue
		}
		ifaces = append(ifaces, d.iface)
		for _, c := range e.copies[d.iface].commands {
			if !slices.Contains(commands, c) {
				commands = append(commands, c)
			}
		}
	}
	port := p.port()
	f.Command = strings.Join(commands, " && ")
	switch {
	case p.nixOS:
		f.Fix = "services.narbor.openFirewall = true; (the command lasts until the next switch)"
	case succeeds(ctx, "firewall-cmd", "--state"):
		f.Fix, f.Command = "for good", fmt.Sprintf("firewall-cmd --permanent%s --add-service=mdns --add-port=%s/tcp "+
			"&& firewall-cmd --reload", zoneOf(ctx, ifaces[0]), port)
	case ufwIsActive(ctx):
		f.Fix, f.Command = "for good", fmt.Sprintf("ufw allow %s/tcp && ufw allow 5353/udp", port)
	case f.Command != "":
		f.Fix = "until the firewall is loaded again; put the same into its configuration"
	default:
		f.Fix = fmt.Sprintf("let TCP port %s and UDP port 5353 in; `sudo narbor doctor firewall` looks for the rules to add", port)
		if p.root {
			f.Fix = fmt.Sprintf("let TCP port %s and UDP port 5353 in; which rule forbids it cannot be told", port)
		}
	}
}

// zoneOf is the flag that names firewalld's zone of an interface, if it is not the default one.
func zoneOf(ctx context.Context, iface string) string {
	zone, err := Output(ctx, "firewall-cmd", "--get-zone-of-interface="+iface)
	if name := strings.TrimSpace(string(zone)); err == nil && name != "" && !strings.Contains(name, " ") {
		return " --zone=" + name
	}
	return ""
}

// ufwIsActive reports whether ufw keeps the rules: it may be installed and off.
func ufwIsActive(ctx context.Context) bool {
	text, err := Output(ctx, "ufw", "status")
	return err == nil && strings.Contains(string(text), "Status: active")
}

func (p *patient) dialBacks(ctx context.Context) (control.DialBackReport, error) {
	ctl := p.ctl
	ctl.Timeout = control.DialBackTimeout + control.Timeout
	var r control.DialBackReport
	err := ctl.Post(ctx, "/dialback", &r)
	return r, err
}
