package main

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"
)

var versionPattern = regexp.MustCompile(`\(([A-Za-z]+)[^)]*\) (\d+)\.(\d+)(?:\.(\d+))?`)

// fixedIn is, for each minor version of Nix 2, the patch that reads deeply nested archives without harm; later ones do.
func fixedIn() map[int]int {
	return map[int]int{28: 7, 29: 4, 30: 5, 31: 5, 32: 8, 33: 6, 34: 7}
}

// codeVersion is the check of Nix itself: what it finds does not count for the exit code.
const codeVersion = "version"

func checkVersion(ctx context.Context, _ *patient) []Finding {
	nix, err := exec.LookPath("nix")
	if err != nil {
		return []Finding{skipped("version: there is no nix in PATH")}
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, nix, "--version").Output()
	if err != nil {
		return []Finding{skipped("version: nix --version: %v", err)}
	}
	name, flaws := flawsOf(string(out))
	if len(flaws) == 0 {
		return []Finding{fine("%s has no known flaw in reading archives", name)}
	}
	return []Finding{{Severity: severityWarning, Text: fmt.Sprintf("%s has known flaws in reading archives (%s): whoever serves it one can harm it. What comes through narbor is checked before; "+
		"what comes from elsewhere is not", name, strings.Join(flaws, ", ")), Fix: "update Nix to 2.34.7, or Lix to 2.95.2, or later"}}
}

// flawsOf says which program printed that version, and what is known against it.
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
