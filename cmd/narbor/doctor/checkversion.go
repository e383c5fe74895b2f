package doctor

import (
	"context"
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"narbor/cmd/narbor/control"
)

var versionPattern = regexp.MustCompile(`\(([A-Za-z]+)[^)]*\) (\d+)\.(\d+)(?:\.(\d+))?`)

// fixedIn is, for each minor version of Nix 2, the patch that reads deeply nested archives without harm; later ones do.
func fixedIn() map[int]int {
	return map[int]int{28: 7, 29: 4, 30: 5, 31: 5, 32: 8, 33: 6, 34: 7}
}

// CodeVersion is the check of Nix itself: its findings do not count for the exit code.
const CodeVersion = "version"

func checkVersion(ctx context.Context, p *patient) []Finding {
	inPath, err := nixInPath()
	if err != nil && !HasDaemon() {
		return []Finding{skipped("version: there is no nix in PATH")}
	}
	confErr := p.asksNix(ctx)
	nix := p.nix
	if nix.file == "" {
		nix = inPath
	}
	version, err := nix.version(ctx)
	if err != nil {
		return []Finding{skipped("version: %v", err)}
	}
	name, flaws := flawsOf(version)
	if nix.daemon {
		name = "nix-daemon (" + name + ")"
	}
	f := fine("%s has no known flaw in reading archives", name)
	if len(flaws) > 0 {
		f = Finding{Severity: severityWarning, Text: fmt.Sprintf("%s has known flaws in reading archives (%s): a crafted one can "+
			"harm it. narbor checks archives before Nix reads them; other substituters may not", name, strings.Join(flaws, ", ")),
			Fix: "update Nix to 2.34.7, or Lix to 2.95.2, or later"}
	}
	found := []Finding{f}
	if other, ok := otherVersion(ctx, nix, inPath, version); ok {
		found = append(found, other)
	}
	if confErr == nil {
		found = append(found, forgedRealisations(version, p.conf)...)
	}
	return found
}

// otherVersion reports that nix-daemon is another Nix than the nix in PATH: the daemon is the one that substitutes.
func otherVersion(ctx context.Context, daemon, inPath nixProgram, version string) (Finding, bool) {
	if !daemon.daemon || inPath.file == "" {
		return Finding{}, false
	}
	theirs, err := inPath.version(ctx)
	if err != nil || theirs == version {
		return Finding{}, false
	}
	ours, _ := flawsOf(version)
	name, _ := flawsOf(theirs)
	return Finding{Severity: severityInfo, Text: fmt.Sprintf("nix-daemon runs %s (%s), and nix in PATH is %s (%s): what holds for "+
		"substituters is the daemon's",
		daemon.file, ours, inPath.file, name), Fix: "if that is not meant: restart nix-daemon, or update the older one"}, true
}

// forgedRealisations reports a Nix that believes any substituter which output a content-addressed derivation has. Nix
// asks for that with the experimental feature ca-derivations, and up to 2.35 takes an answer that is not signed,
// whatever require-sigs says (tried with 2.8, 2.26 and 2.34). narbor answers 404 there.
func forgedRealisations(version string, conf map[string][]string) []Finding {
	if !slices.Contains(conf["experimental-features"], "ca-derivations") {
		return nil
	}
	if m := versionPattern.FindStringSubmatch(version); m != nil && !strings.Contains(m[0], "Lix") {
		major, _ := strconv.Atoi(m[2])
		minor, _ := strconv.Atoi(m[3])
		if major > 2 || major == 2 && minor > 35 {
			return nil
		}
	}
	var far []string
	for _, s := range conf["substituters"] {
		if !ofThisMachine(s) {
			far = append(far, control.HideLogin(s, "…"))
		}
	}
	if len(far) == 0 {
		return nil
	}
	return []Finding{{Severity: severityWarning, Text: fmt.Sprintf("the experimental feature ca-derivations is on: Nix believes what "+
		"any substituter says about the outputs of content-addressed derivations, "+
		"signed or not. These are not on this machine: %s. narbor never answers such a question", strings.Join(far, ", ")),
		Fix: "take ca-derivations out of experimental-features, or those substituters out of the configuration"}}
}

// ofThisMachine reports whether a substituter is a directory, a daemon or a loopback address of this machine.
func ofThisMachine(substituter string) bool {
	u, err := url.Parse(substituter)
	if err != nil {
		return false
	}
	switch u.Scheme {
	case "", "file", "local", "unix", "daemon", "auto", "dummy":
		return true
	}
	addr, err := netip.ParseAddr(u.Hostname())
	return err == nil && addr.IsLoopback() || strings.EqualFold(u.Hostname(), "localhost")
}

func flawsOf(version string) (name string, flaws []string) {
	m := versionPattern.FindStringSubmatch(version)
	if m == nil {
		return strings.TrimSpace(version), nil
	}
	major, _ := strconv.Atoi(m[2])
	minor, _ := strconv.Atoi(m[3])
	patch, _ := strconv.Atoi(m[4])
	if strings.Contains(m[0], "Lix") {
		if major == 2 && (minor < 95 || minor == 95 && patch < 2) {
			flaws = append(flaws, "CVE-2026-44028")
		}
		return "Lix " + strings.Fields(m[0])[len(strings.Fields(m[0]))-1], flaws
	}
	if major == 2 && minor == 24 && patch <= 5 {
		flaws = append(flaws, "CVE-2024-45593")
	}
	fixed, backported := fixedIn()[minor]
	if major == 2 && minor <= 34 && (!backported || patch < fixed) {
		flaws = append(flaws, "CVE-2026-44028")
	}
	return "Nix " + strings.Fields(m[0])[len(strings.Fields(m[0]))-1], flaws
}
