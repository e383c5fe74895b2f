package main

import (
	"slices"
	"strings"

	"narbor/cmd/narbor/circle"
	"narbor/cmd/narbor/control"
	"narbor/cmd/narbor/doctor"
)

// circleHealth reports a circle without effect on own builds.
func (k *keyState) circleHealth(st control.Status) *control.Health {
	if k.circle == nil || len(st.CircleKeys) > 0 {
		return nil
	}
	var names []string
	for _, key := range k.group.keys {
		names = append(names, keyName(key))
	}
	h := &control.Health{Code: "circle-keys", Severity: control.SeverityWarning, Title: "Nix trusts no key of the circle",
		Text: "Own builds of the circle are neither taken nor shared. The trusted-public-keys of Nix on this machine have " +
			"none of its keys: " + strings.Join(names, ", ") + ".",
		Fix: "Add the public key to extra-trusted-public-keys in nix.conf, and restart nix-daemon."}
	if k.group.file != "" {
		h.Fix += " This shows the line:"
		h.Command = "sudo narbor circle show"
	}
	return h
}

// circleChanged reports that the state directory has another circle than the one in force.
func (k *keyState) circleChanged(control.Status) *control.Health {
	g := k.group
	if g.state == "" {
		return nil
	}
	h := &control.Health{Code: "circle-changed", Severity: control.SeverityWarning,
		Title: "The circle has changed since narbor started",
		Text:  "Its secret or its keys are others now, and those of the start are in force.", Fix: "Restart narbor."}
	next, err := circle.Load(g.state)
	switch {
	case err != nil:
		h.Title, h.Text, h.Fix = "The circle cannot be read", "The membership is that of the start: "+err.Error()+".",
			"Mend the file, or join the circle again, before narbor is restarted."
		return h
	case next == nil && g.circle == nil:
		return nil
	case next == nil:
		h.Text = "This machine has left the circle " + g.circle.Name + ", or its state directory was emptied. " +
			"It is a member until narbor is restarted."
	case g.circle == nil:
		h.Text = "This machine has joined the circle " + next.Name + ", and is a member once narbor is restarted."
	case next.Secret == g.circle.Secret && slices.Equal(next.Keys, g.circle.Keys):
		return nil
	}
	if doctor.HasSystemd() {
		h.Command = "sudo systemctl restart narbor"
	}
	return h
}
