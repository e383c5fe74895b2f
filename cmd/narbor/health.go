package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"narbor/cmd/narbor/control"
	"narbor/cmd/narbor/dashboard"
	"narbor/cmd/narbor/doctor"
	"narbor/store"
)

// settleIn is how long a service may run without a neighbour before that is worth a word.
const settleIn = 10 * time.Second

// health returns the problems of this service, the worst first.
func (s *parts) health(st control.Status) []control.Health {
	list := []control.Health{}
	for _, check := range []func(control.Status) *control.Health{keysHealth, networkHealth, storeHealth, damageHealth, shareHealth,
		s.keys.confHealth, s.shares.cacheHealth, s.nixHealth, s.spoolHealth,
		neighbourHealth, otherKeysHealth, bannedHealth, groupHealth, s.keys.circleHealth, s.keys.circleChanged, vsockHealth,
		s.accountsHealth, s.start.misspeltHealth} {
		if h := check(st); h != nil {
			list = append(list, *h)
		}
	}
	order := []string{control.SeverityError, control.SeverityWarning, control.SeverityInfo}
	slices.SortStableFunc(list, func(a, b control.Health) int {
		return slices.Index(order, a.Severity) - slices.Index(order, b.Severity)
	})
	return list
}

func keysHealth(st control.Status) *control.Health {
	if len(st.Keys) > 0 {
		return nil
	}
	return &control.Health{Code: "keys", Severity: control.SeverityError, Title: "Nothing can be believed",
		Text: "Nix on this machine has no trusted-public-keys, so nothing that a neighbour sends could be " +
			"checked, and none of it is used.",
		Fix:     "Give Nix the key of its cache in nix.conf, or give it to narbor by --trusted-key.",
		Command: "trusted-public-keys = cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="}
}

func networkHealth(st control.Status) *control.Health {
	if len(st.Neighbours) > 0 { // which were named
		return nil
	}
	var reasons []string
	for _, i := range st.Interfaces {
		if i.Used {
			return nil
		}
		if i.Reason != "loopback" {
			reasons = append(reasons, i.Name+" ("+i.Reason+")")
		}
	}
	h := &control.Health{Code: "network", Severity: control.SeverityWarning, Title: "No network to look for neighbours on",
		Text: "This machine has no network interface but loopback.", Fix: "Connect it. narbor notices by itself."}
	if len(reasons) > 0 {
		h.Text = "None of the network interfaces is used: " + strings.Join(reasons, ", ") + "."
		h.Fix = "To use one all the same, start narbor with --interface NAME."
	}
	return h
}

func storeHealth(st control.Status) *control.Health {
	if st.StoreProblem == "" {
		return nil
	}
	return &control.Health{Code: "store", Severity: control.SeverityWarning,
		Title: "The Nix store cannot be asked, so it is not shared",
		Text:  "narbor asks Nix on this machine what it has, and is refused: " + st.StoreProblem + ".",
		Fix: "Let the user that narbor runs as use nix-daemon: see allowed-users in nix.conf, and which group may open " +
			"/nix/var/nix/daemon-socket. Where no daemon runs, only the owner of /nix can share it: run narbor as that user."}
}

func damageHealth(st control.Status) *control.Health {
	if len(st.Damaged) == 0 {
		return nil
	}
	d := st.Damaged[0]
	h := &control.Health{Code: "damaged", Severity: control.SeverityWarning,
		Title: dashboard.Plural(len(st.Damaged), "path") + " of this machine damaged",
		Text:  fmt.Sprintf("The content of %s in %s does not have the hash that its upstream has signed: %s.", d.Path, d.Where, d.Reason)}
	if more := len(st.Damaged) - 1; more > 0 {
		h.Text += fmt.Sprintf(" So it is with %d more.", more)
	}
	h.Text += " It is neither served nor shared. A power cut, a failing disk or bad memory does that, or an edit below " + store.Dir + "."
	if d.Where == store.Dir {
		h.Fix, h.Command = "Repair the Nix store, as root. narbor notices by itself.", repairStore
	} else {
		h.Fix = "Delete that path from " + d.Where + ", and put it there again."
	}
	return h
}

func shareHealth(st control.Status) *control.Health {
	h := &control.Health{Code: "nothing-shared", Severity: control.SeverityWarning, Title: "Neighbours get nothing from here"}
	switch {
	case st.Sharing != "signed" && st.PausedUntil != nil:
		h.Severity, h.Code = control.SeverityInfo, "sharing-paused"
		h.Text = "Sharing is paused until " + st.PausedUntil.Local().Format("15:04") + "."
		h.Fix, h.Command = "To share again now:", "narbor share resume"
	case st.Sharing != "signed":
		h.Severity, h.Code = control.SeverityInfo, "sharing-off"
		h.Text, h.Fix, h.Command = "Sharing was turned off.", "To share again until the next start:", "narbor share resume"
	case len(st.ShareKeys) == 0 && len(st.Keys) > 0 && !st.ShareSources:
		h.Text = "Every trusted key is private: what it has signed may come from a cache that asks for a password, or from this machine."
		h.Fix = "Add the key of the public cache that this machine uses to trusted-public-keys, or say which key is public by " +
			"--share-key; see `narbor keys`."
	default:
		return nil
	}
	return h
}

// confHealth is a warning only if a key might be public otherwise, or Nix refuses the configuration as well.
func (k *keyState) confHealth(st control.Status) *control.Health {
	if len(st.NixConfProblems) == 0 {
		return nil
	}
	h := &control.Health{Code: "nix-conf", Severity: control.SeverityInfo, Title: "Nix's configuration cannot be read to its end",
		Text: "narbor cannot read " + strings.Join(st.NixConfProblems, "; ") + ". It shares what public keys have signed.",
		Fix: "Let the user that narbor runs as read the file, or take out the line that includes it. If it holds nothing that narbor " +
			"must know, such as access-tokens, leave it so."}
	policy := k.policy()
	policy.unread = nil
	if without, _ := policy.split(st.Keys); len(without) > len(st.PublicKeys) {
		h.Severity = control.SeverityWarning
		h.Text += " A key of a cache that may need a password, for all that narbor can tell, is private until then."
	}
	if k.refused() {
		h.Severity, h.Fix = control.SeverityWarning, "Mend the file: Nix refuses it, too. Until then the keys are those that could be "+
			"read before."
	}
	return h
}

func (s *parts) nixHealth(st control.Status) *control.Health {
	asked := st.Nix.NarinfoHits+st.Nix.NarinfoMisses > 0 || s.accounts.Asked()
	switch {
	case st.Store == "" && st.StoreProblem == "" || asked || len(st.HTTP) == 0:
		return nil
	case !s.isSubstituter():
		text := "Nix here does not know of narbor."
		if st.Sharing != "none" && len(st.ShareKeys) > 0 {
			text = "Neighbours get what this machine has, but Nix here does not know of narbor."
		}
		return &control.Health{Code: "nix", Severity: control.SeverityWarning, Title: "Nix does not ask narbor",
			Text:    text,
			Fix:     "Add this line to nix.conf, below any line that begins with substituters, and restart nix-daemon:",
			Command: s.nixConfLine()}
	}
	return &control.Health{Code: "nix", Severity: control.SeverityInfo, Title: "Nix has not asked yet",
		Text: "Its configuration says that it may. It asks when it needs a path that is not in the store.",
		Fix:  "If it should have asked: nix-daemon reads nix.conf when it starts.", Command: "sudo systemctl restart nix-daemon"}
}

// spoolHealth reports recent requests that failed for lack of room. A full spool is no problem: old NARs make room for
// new ones.
func (s *parts) spoolHealth(st control.Status) *control.Health {
	if s.accounts.TooLarge(time.Hour) {
		return &control.Health{Code: "disk", Severity: control.SeverityWarning, Title: "An archive is larger than the spool",
			Text: fmt.Sprintf("In the last hour Nix asked for an archive that is larger than %s, which --spool-size allows, and was "+
				"told that it is not here.", dashboard.Amount(st.Spool.MaxBytes)),
			Fix:     "Give narbor a larger --spool-size. The log names the path; this says of any path what stands in its way:",
			Command: "narbor why PATH"}
	}
	if !s.accounts.OutOfRoom(time.Hour) {
		return nil
	}
	return &control.Health{Code: "disk", Severity: control.SeverityWarning, Title: "No room for what Nix asked for",
		Text: fmt.Sprintf("In the last hour an archive did not fit on the disk. Archives wait there until Nix has them: %s of at most "+
			"%s are in use, and narbor leaves --min-free on the disk.",
			dashboard.Amount(st.Spool.Bytes), dashboard.Amount(st.Spool.MaxBytes)),
		Fix:     "Make room on the disk, or give narbor more by --spool-size, or less to leave free by --min-free.",
		Command: "nix-collect-garbage"}
}

func neighbourHealth(st control.Status) *control.Health {
	if len(st.Neighbours) > 0 || networkHealth(st) != nil || time.Duration(st.UptimeSeconds)*time.Second < settleIn {
		return nil
	}
	h := &control.Health{Code: "neighbours", Severity: control.SeverityInfo, Title: "No neighbour yet",
		Text:    "No other narbor was found on this network. Until there is one, Nix gets everything from the internet, as before.",
		Fix:     "Start narbor on a second machine. If it runs there: let UDP 5353 and TCP 6273 through the firewall of both, or name it:",
		Command: "narbor peers add ADDRESS"}
	if !st.MDNS {
		h.Text = "narbor was started with --no-mdns, so it finds only peers that are named. Until there is one, Nix gets " +
			"everything from the internet, as before."
		h.Fix = "Name a machine that runs narbor:"
	}
	return h
}

// otherKeysHealth reports signatures of neighbours that do not verify with the key of that name in nix.conf.
func otherKeysHealth(st control.Status) *control.Health {
	if len(st.OtherKeys) == 0 {
		return nil
	}
	h := &control.Health{Code: doctor.CodeOtherKeys, Severity: control.SeverityInfo, Title: "A key of the same name is another one"}
	for i, k := range st.OtherKeys {
		if i > 0 {
			h.Text += " "
		}
		h.Text += fmt.Sprintf("Neighbours sign as %s with another key than nix.conf has: such as %s, at %s. "+
			"Such paths are not taken from them.",
			k.Key, k.Path, dashboard.Plural(len(k.Neighbours), "neighbour"))
		h.Fix = fmt.Sprintf("Compare the line of %s in trusted-public-keys, here and there, with the key that its cache publishes: it "+
			"was mistyped on one side, or the cache has a new key of that name.", k.Key)
	}
	h.Command = "narbor keys"
	return h
}

// bannedHealth is no warning: narbor works as well as before, and no neighbour may cause a warning.
func bannedHealth(st control.Status) *control.Health {
	if len(st.Banned) == 0 {
		return nil
	}
	return &control.Health{Code: "banned-peers", Severity: control.SeverityInfo,
		Title: fmt.Sprintf("%d banned for strikes", len(st.Banned)),
		Text:  "Each has three strikes: it sent data that no honest neighbour sends, or probed for paths. No such data reached Nix.",
		Fix:   "If one of them is your machine, see whether it runs the same version of narbor:", Command: "narbor version"}
}

func groupHealth(st control.Status) *control.Health {
	if len(st.OtherGroup) == 0 {
		return nil
	}
	return &control.Health{Code: "other-group", Severity: control.SeverityInfo,
		Title: fmt.Sprintf("%d of another group", len(st.OtherGroup)),
		Text:  "They are neither asked nor answered, for they do not have the same --group-secret-file.",
		Fix:   "If they should be in yours, copy the file to them."}
}

func vsockHealth(st control.Status) *control.Health {
	if !st.VsockForbidden {
		return nil
	}
	return &control.Health{Code: "vsock", Severity: control.SeverityInfo, Title: "vsock is not allowed",
		Text:    "The kernel has vsock, by which virtual machines and their host reach each other, but the unit does not allow AF_VSOCK.",
		Fix:     "On NixOS set services.narbor.vsock = true. --no-vsock (NARBOR_NO_VSOCK=true) ends this note. Elsewhere:",
		Command: "sudo narbor setup"}
}

func (s *parts) accountsHealth(control.Status) *control.Health {
	note := s.accounts.Note()
	if note == "" {
		return nil
	}
	return &control.Health{Code: "accounts-lost", Severity: control.SeverityInfo, Title: "What was saved is counted from now on",
		Text: note, Fix: "There is nothing to do, unless the disk is failing."}
}

func (s start) misspeltHealth(control.Status) *control.Health {
	if len(s.misspelt) == 0 {
		return nil
	}
	var texts []string
	for _, m := range s.misspelt {
		texts = append(texts, fmt.Sprintf("%s (the nearest name is %s)", m.name, m.nearest))
	}
	return &control.Health{Code: "misspelt", Severity: control.SeverityWarning, Title: "Environment variables without effect",
		Text: "narbor was started with variables that set nothing: " + strings.Join(texts, ", ") + ".",
		Fix:  "Correct their names where narbor is started, or take them out. `narbor config show` lists all settings."}
}

// cacheHealth reports a cache directory without any path that a trusted key has signed.
func (s *shares) cacheHealth(st control.Status) *control.Health {
	for i, found := range s.signers.of(s.caches) {
		if found.Paths == 0 || slices.ContainsFunc(found.Names, func(name string) bool { return slices.Contains(st.Keys, name) }) {
			continue
		}
		h := &control.Health{Code: "cache-not-trusted", Severity: control.SeverityWarning,
			Title: "Neighbours get nothing from a cache directory",
			Text:  fmt.Sprintf("None of %s in %s has a signature.", dashboard.Plural(found.Paths, "path"), s.cacheDirs[i]),
			Fix:   "Let the machine that fills it sign: nix store sign, or secret-key-files in its nix.conf."}
		if len(found.Names) > 0 {
			h.Text = fmt.Sprintf("All of %s looked at in %s are signed by %s alone, and this machine trusts no key of that name.",
				dashboard.Plural(found.Paths, "path"), s.cacheDirs[i], strings.Join(found.Names, ", "))
			h.Fix = "If it is yours, give narbor that key by --trusted-key, or add it to trusted-public-keys in nix.conf."
		}
		return h
	}
	return nil
}
