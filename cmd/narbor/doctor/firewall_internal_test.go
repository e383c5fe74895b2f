package doctor

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"narbor/cmd/narbor/control"
	"narbor/p2p/meet"
)

func TestOneClosedFamilyIsNamed(t *testing.T) {
	four, six := flow{"TCP", false}, flow{"TCP", true}
	udp := map[flow]bool{{"UDP", false}: true}
	for name, c := range map[string]struct {
		open   map[flow]bool
		closed bool
		note   string
	}{
		"both open":        {map[flow]bool{four: true, six: true}, false, ""},
		"both closed":      {map[flow]bool{four: false, six: false}, true, ""},
		"IPv6 closed":      {map[flow]bool{four: true, six: false}, false, " (not over IPv6)"},
		"IPv4 closed":      {map[flow]bool{four: false, six: true}, true, " over IPv4"},
		"IPv6 alone, open": {map[flow]bool{six: true}, false, ""},
		"IPv6 alone":       {map[flow]bool{six: false}, true, ""},
	} {
		tried := copied{open: map[flow]bool{{"UDP", false}: udp[flow{"UDP", false}]}}
		for k, v := range c.open {
			tried.open[k] = v
		}
		if got := slices.Contains(tried.closed(), "TCP"); got != c.closed || tried.family("TCP") != c.note {
			t.Errorf("%s: closed %v, note %q, want %v, %q", name, got, tried.family("TCP"), c.closed, c.note)
		}
	}
}

// A neighbour's own connection counts more than what this machine makes of its rules.
func TestFirewallEvidenceIsWeighed(t *testing.T) {
	open := copied{open: map[flow]bool{{"TCP", false}: true, {"UDP", false}: true}}
	closed := copied{open: map[flow]bool{{"TCP", false}: false, {"UDP", false}: true}}
	dials := func(results ...string) (r control.DialBackReport) {
		for _, result := range results {
			r.DialBacks = append(r.DialBacks, meet.DialBack{Interface: "eth0", Result: result})
		}
		return r
	}
	for name, c := range map[string]struct {
		dialled control.DialBackReport
		copy    *copied
		state   doorState
		means   string
	}{
		"nothing": {dials(), nil, doorUnknown, ""},
		"no answer": {dials(meet.DialNoAnswer, meet.DialTooOften, meet.DialDeclined, meet.DialUnconfirmed), nil,
			doorUnknown, ""},
		"a neighbour arrives":              {dials(meet.DialTimedOut, meet.DialReached), nil, doorOpen, "dial-back"},
		"no neighbour arrives":             {dials(meet.DialTimedOut, meet.DialTooOften), nil, doorClosed, "dial-back"},
		"a neighbour is refused":           {dials(meet.DialRefused), nil, doorClosed, "dial-back"},
		"the copy is open":                 {dials(), &open, doorOpen, "copy"},
		"the copy is closed":               {dials(meet.DialDeclined), &closed, doorClosed, "copy"},
		"both are open":                    {dials(meet.DialReached), &open, doorOpen, "dial-back copy"},
		"both are closed":                  {dials(meet.DialTimedOut), &closed, doorClosed, "dial-back copy"},
		"a neighbour arrives all the same": {dials(meet.DialReached), &closed, doorOpen, "dial-back"},
		"something is between":             {dials(meet.DialTimedOut), &open, doorBetween, "dial-back copy"},
		"another interface": {control.DialBackReport{DialBacks: []meet.DialBack{{Interface: "eth1", Result: meet.DialReached}}}, nil,
			doorUnknown, ""},
	} {
		e := evidence{dialled: c.dialled, copies: map[string]copied{}}
		if c.copy != nil {
			e.copies["eth0"] = *c.copy
		}
		d := door{proto: "TCP", port: "6273", iface: "eth0"}
		e.judge(&d)
		if d.state != c.state || strings.Join(d.means, " ") != c.means {
			t.Errorf("%s: state %d by %q, want %d by %q", name, d.state, d.means, c.state, c.means)
		}
	}
}

func TestFirewallFindingsSayByWhatMeans(t *testing.T) {
	tcp := door{proto: "TCP", port: "6273", iface: "eth0"}
	udp := door{proto: "UDP", port: "5353", iface: "eth0"}
	with := func(d door, s doorState, means ...string) door {
		d.state, d.means = s, means
		return d
	}
	rules := evidence{copies: map[string]copied{"eth0": {commands: []string{"nft insert rule inet t in tcp dport 6273 accept"}}}}
	for name, c := range map[string]struct {
		p     patient
		doors []door
		e     evidence
		want  []Finding
	}{
		"open": {patient{running: true}, []door{with(tcp, doorOpen, byDialBack), with(udp, doorOpen, byMulticast)}, evidence{},
			[]Finding{{Severity: severityOK, Means: []string{"dial-back", "multicast"},
				Text: "the firewall lets neighbours in: TCP 6273 on eth0, UDP 5353 on eth0; found by " +
					"asking neighbours to connect and by an " +
					"announcement that has come in"}}},
		"closed": {patient{running: true, root: true, nixOS: true}, []door{with(tcp, doorClosed, byCopy), with(udp, doorOpen, byCopy)},
			rules, []Finding{
				{Severity: severityError, Means: []string{"copy"}, Safe: true,
					Text:    "the firewall keeps neighbours out: TCP 6273 on eth0; found by trying a copy of its rules",
					Fix:     "services.narbor.openFirewall = true; (the command lasts until the next switch)",
					Command: rules.copies["eth0"].commands[0]},
				{Severity: severityOK, Means: []string{"copy"},
					Text: "the firewall lets neighbours in: UDP 5353 on eth0; found by trying a " +
						"copy of its rules"}}},
		"between": {patient{running: true, root: true}, []door{with(tcp, doorBetween, byDialBack, byCopy)}, evidence{},
			[]Finding{{Severity: severityWarning, Means: []string{"copy", "dial-back"},
				Text: "neighbours cannot connect to TCP 6273 on eth0, although this machine's firewall lets them in; found by " +
					"trying a copy " +
					"of its rules and by asking neighbours to connect",
				Fix: "look for a firewall between them: of a router, a hypervisor or a switch, or client isolation in the access point"}}},
		"unknown to a user": {patient{running: true}, []door{tcp, udp}, evidence{}, []Finding{{Severity: severitySkipped,
			Text: "cannot tell whether the firewall lets neighbours in: TCP 6273 on eth0, UDP 5353 on eth0; there is no neighbour to be " +
				"asked to connect, and only root may try the rules",
			Fix: "run `sudo narbor doctor firewall`, which tries the rules, or start narbor on another machine of this network, then " +
				"look again: it is asked to connect"}}},
		"unknown to root": {patient{root: true}, []door{tcp},
			evidence{noCopy: errors.New("the firewall has rules with \"queue\", which depend on more than packets")},
			[]Finding{{Severity: severitySkipped,
				Text: "cannot tell whether the firewall lets neighbours in: TCP 6273 on eth0; narbor is not running, so " +
					"no neighbour can be " +
					"asked to connect, and the firewall has rules with \"queue\", which depend on more than packets",
				Fix: "start narbor on another machine of this network, then look again: it is asked to connect"}}},
	} {
		got := c.p.firewallFindings(t.Context(), c.doors, c.e)
		if !slices.EqualFunc(got, c.want, func(a, b Finding) bool {
			means := slices.Equal(a.Means, b.Means)
			a.Means, b.Means = nil, nil
			return means && a.Text == b.Text && a.Fix == b.Fix && a.Command == b.Command && a.Severity == b.Severity && a.Safe == b.Safe
		}) {
			t.Errorf("%s: findings are\n%+v\nwant\n%+v", name, got, c.want)
		}
	}
}

func TestRulesThatACopyCannotFollow(t *testing.T) {
	for text, want := range map[string]string{
		"tcp dport 6273 accept":                         "",
		"tcp dport 22 accept comment \"not the queue\"": "",
		"queue flags bypass to 0":                       "queue",
		"-A INPUT -j NFQUEUE --queue-num 0":             "NFQUEUE",
		"socket cgroupv2 level 1 \"system.slice\" drop": "socket",
		"-A INPUT -m bpf --bytecode \"4,48\" -j DROP":   "bpf",
	} {
		if got := (ruleset{loads: []load{{text: text}}}).notCopied(); got != want {
			t.Errorf("notCopied of %q = %q, want %q", text, got, want)
		}
	}
}
