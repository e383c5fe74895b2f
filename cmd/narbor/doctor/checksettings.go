package doctor

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"

	"narbor/cmd/narbor/control"
	"narbor/store/nixconf"
	"narbor/trust"
)

// asksNix reads the settings of this machine's Nix, once.
func (p *patient) asksNix(ctx context.Context) error {
	if p.conf != nil || p.nixErr != nil {
		return p.nixErr
	}
	if p.nix, p.nixErr = systemNix("/proc"); p.nixErr == nil {
		p.conf, p.nixErr = p.nix.settings(ctx)
	}
	return p.nixErr
}

// checkSettings compares the settings that Nix has with those that the running narbor has, and those of the user.
func checkSettings(ctx context.Context, p *patient) []Finding {
	if !nixconf.Installed() {
		return []Finding{skipped("settings: there is no Nix on this machine")}
	}
	if err := p.asksNix(ctx); err != nil {
		return []Finding{{Severity: severityError, Text: "Nix does not say its settings: " + err.Error(),
			Fix: "mend its configuration; Nix refuses it, too"}}
	}
	found := p.brokenKeys(ctx)
	found = append(found, p.compareNarbor(ctx)...)
	found = append(found, p.compareUser(ctx)...)
	if len(found) == 0 {
		found = []Finding{fine("narbor has the keys and substituters that Nix has")}
	}
	return found
}

// brokenKeys reports the keys that make Nix fail each time that it checks or makes a signature, in the words of Nix.
func (p *patient) brokenKeys(ctx context.Context) (found []Finding) {
	add := func(setting, value, why string) {
		f := Finding{Severity: severityError, Fix: "correct it or take it out; until then Nix takes no path from any substituter",
			Text: fmt.Sprintf("%s: %s = %s: Nix says %q", p.lineOf(setting, value), setting, trust.ShownKey(value), why)}
		if RestartDaemon(p.systemd) == "" && HasDaemon() {
			f.Fix += "; then restart nix-daemon"
		}
		found = append(found, f)
	}
	for _, key := range p.conf["trusted-public-keys"] {
		if why := keyProblem(key); why != "" {
			add("trusted-public-keys", key, why)
		}
	}
	for _, file := range p.conf["secret-key-files"] {
		if why := p.secretKeyProblem(ctx, file); why != "" {
			add("secret-key-files", file, why)
		}
	}
	return found
}

// keyProblem returns the error of Nix 2.26 and 2.34 about a malformed public key; "" is a valid key. Nix 2.8 says
// "secret key is corrupt" for the first of them.
func keyProblem(key string) string {
	name, text, _ := strings.Cut(key, ":")
	if name == "" || text == "" {
		return "key is corrupt"
	}
	if _, err := trust.ParseKeys([]string{key}); err == nil {
		return ""
	}
	for _, r := range text {
		if !strings.ContainsRune("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=", r) {
			return fmt.Sprintf("invalid character in Base64 string: '%c'", r)
		}
	}
	return "public key is not valid"
}

// secretKeyProblem returns Nix's error about a secret key file; "" is none. narbor does not open the file: nix reads
// it. A missing file is no problem for Nix.
func (p *patient) secretKeyProblem(ctx context.Context, file string) string {
	st, err := os.Stat(file)
	switch {
	case err != nil || !p.root:
		return ""
	case st.Size() == 0 && st.Mode().IsRegular():
		return "key is corrupt"
	}
	nix, err := nixInPath()
	if err != nil {
		return ""
	}
	const feature = "--extra-experimental-features"
	_, err = nixProgram{file: "/bin/sh", env: nix.env}.run(ctx, "-c", `exec "$0" key convert-secret-to-public "$1" nix-command < "$2"`,
		nix.file, feature, file)
	if err == nil {
		return ""
	}
	_, why, ok := cutLast(err.Error(), "error: ")
	if !ok || strings.Contains(why, "is not a recognised command") {
		return ""
	}
	return strings.TrimSpace(why)
}

func (p *patient) lineOf(setting, value string) string {
	at := ""
	for _, l := range nixconf.Lines(setting) {
		if l.Value == value && l.UndoneBy == "" {
			at = l.At
		}
	}
	return cmp.Or(at, "Nix's settings")
}

// compareNarbor reports what the running narbor has read otherwise than Nix.
func (p *patient) compareNarbor(ctx context.Context) (found []Finding) {
	var ours control.ReadSettings
	switch {
	case !p.running:
		return []Finding{skipped("settings: narbor is not running")}
	case !p.root:
		return []Finding{skipped("settings: only root may see whether narbor has what Nix has")}
	}
	if err := p.ctl.Get(ctx, "/settings", &ours); err != nil {
		return []Finding{{Severity: severityWarning, Text: "narbor does not say its settings: " + err.Error(), Fix: "restart narbor"}}
	}
	who := fmt.Sprintf("user %d", ours.UID)
	if u, err := user.LookupId(strconv.Itoa(ours.UID)); err == nil {
		who = u.Username
	}
	differ := func(what string, nix, narbor []string) {
		name := func(v string) string { n, _, _ := strings.Cut(v, ":"); return n }
		if what == "substituters" {
			name = func(v string) string { return control.HideLogin(v, "…") }
		}
		lacks, more := missingFrom(nix, narbor), missingFrom(narbor, nix)
		if len(lacks)+len(more) == 0 {
			return
		}
		f := Finding{Severity: severityWarning, Fix: fmt.Sprintf("let %s read all files of Nix's configuration; those that it read: %s",
			who, ours.Origin)}
		switch {
		case len(more) == 0:
			f.Text = fmt.Sprintf("Nix has %s that narbor, which runs as %s, does not have: %s", what, who, listed(lacks, name))
		case len(lacks) == 0:
			f.Text = fmt.Sprintf("narbor, which runs as %s, has %s that Nix does not have: %s", who, what, listed(more, name))
			f.Fix = fmt.Sprintf("put them into %s, or take them out of the configuration of %s", NixConfFile, who)
		default:
			f.Text = fmt.Sprintf("Nix and narbor, which runs as %s, have other %s: Nix has %s, narbor has %s", who, what,
				listed(lacks, name), listed(more, name))
		}
		found = append(found, f)
	}
	differ("trusted keys", p.validKeys(), slices.DeleteFunc(ours.Keys, func(k string) bool { return keyProblem(k) != "" }))
	differ("substituters", p.conf["substituters"], ours.Substituters)
	if len(ours.Unread) > 0 {
		found = append(found, Finding{Severity: severityWarning,
			Text: fmt.Sprintf("narbor, which runs as %s, could not read %s", who, strings.Join(ours.Unread, "; ")),
			Fix:  "let every user read it, and keep passwords and tokens in a file of their own below !include"})
	}
	return found
}

func (p *patient) validKeys() []string {
	return slices.DeleteFunc(slices.Clone(p.conf["trusted-public-keys"]), func(k string) bool { return keyProblem(k) != "" })
}

// missingFrom returns the elements of a that are not in b, a final slash aside.
func missingFrom(a, b []string) (rest []string) {
	same := func(v string) func(string) bool {
		return func(w string) bool { return strings.TrimSuffix(v, "/") == strings.TrimSuffix(w, "/") }
	}
	for _, v := range a {
		if !slices.ContainsFunc(b, same(v)) && !slices.Contains(rest, v) {
			rest = append(rest, v)
		}
	}
	return rest
}

func listed(values []string, name func(string) string) string {
	var out []string
	for _, v := range values {
		out = append(out, name(v))
	}
	return strings.Join(out, ", ")
}

// compareUser reports what a user has set for themselves and nix-daemon does not take from them, or what keeps Nix from
// asking narbor for them.
func (p *patient) compareUser(ctx context.Context) (found []Finding) {
	u := p.user()
	if u == nil || !HasDaemon() {
		return nil
	}
	nix, err := userNix(u)
	if err != nil {
		return nil
	}
	own, err := nix.settings(ctx)
	if err != nil {
		return []Finding{{Severity: severityWarning, Text: fmt.Sprintf("Nix refuses the configuration of %s: %v", u.Username, err),
			Fix: "mend it"}}
	}
	return userSettings{u.Username, isTrusted(p.conf["trusted-users"], u), own}.compare(p.conf, p.urls())
}

// userSettings are those of a user, and whether nix-daemon trusts that user.
type userSettings struct {
	name    string
	trusted bool
	conf    map[string][]string
}

func (u userSettings) compare(daemon map[string][]string, urls []string) (found []Finding) {
	asks := func(subs []string) bool {
		return slices.ContainsFunc(subs, func(s string) bool { return nixconf.LeadsTo(urls, s) })
	}
	const toSystem = "move it to the configuration of nix-daemon, " + NixConfFile + ", or name the user in trusted-users there"
	allowed := slices.Concat(daemon["substituters"], daemon["trusted-substituters"])
	switch {
	case asks(u.conf["substituters"]) && !u.trusted && !asks(allowed):
		found = append(found, Finding{Severity: severityError, Fix: toSystem,
			Text: fmt.Sprintf("the configuration of %s names narbor, but nix-daemon ignores it, because it does not trust %[1]s", u.name)})
	case !asks(u.conf["substituters"]) && asks(daemon["substituters"]):
		found = append(found, Finding{Severity: severityWarning, Fix: "write extra-substituters in place of substituters there",
			Text: fmt.Sprintf("Nix does not ask narbor for %s, whose own configuration sets substituters without it", u.name)})
	}
	if keys := missingFrom(u.conf["trusted-public-keys"], daemon["trusted-public-keys"]); !u.trusted && len(keys) > 0 {
		found = append(found, Finding{Severity: severityWarning, Fix: toSystem,
			Text: fmt.Sprintf("nix-daemon ignores trusted keys in the configuration of %s, because it does not trust %[1]s: %s", u.name,
				listed(keys, func(k string) string { n, _, _ := strings.Cut(k, ":"); return n }))})
	}
	return found
}

// user returns the user that runs doctor, or that called sudo for it; nil is root, or unknown.
func (p *patient) user() *user.User {
	id := strconv.Itoa(os.Geteuid())
	if p.root {
		id = os.Getenv("SUDO_UID")
	}
	u, err := user.LookupId(id)
	if err != nil || u.Uid == "0" {
		return nil
	}
	return u
}

// isTrusted reports whether a list such as trusted-users has a user: by name, by group, or with all others.
func isTrusted(list []string, u *user.User) bool {
	if slices.Contains(list, "*") || slices.Contains(list, u.Username) || u.Uid == "0" {
		return true
	}
	ids, err := u.GroupIds()
	if err != nil {
		return false
	}
	return slices.ContainsFunc(ids, func(id string) bool {
		g, err := user.LookupGroupId(id)
		return err == nil && slices.Contains(list, "@"+g.Name)
	})
}
