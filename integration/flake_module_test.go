package integration_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

const enabled = `{ services.narbor.enable = true; }`

func TestModuleNeedsOneLine(t *testing.T) {
	c := newFlake(t).evaluate(t, enabled)[0]
	const service, socket = "systemd.services.narbor.", "systemd.sockets.narbor."
	for path, want := range map[string]string{
		"nix.settings":                                    `{"extra-substituters":["http://127.0.0.1:6272"]}`,
		"networking.firewall.allowedTCPPorts":             `[6273]`,
		"networking.firewall.allowedUDPPorts":             `[5353]`,
		"networking.proxy":                                `{"httpProxy":null,"noProxy":null}`,
		"warnings":                                        `[]`,
		"assertions":                                      `[]`,
		"undescribed":                                     `[]`,
		socket + "wantedBy":                               `["sockets.target"]`,
		socket + "socketConfig.ListenStream":              `["127.0.0.1:6272","[::1]:6272"]`,
		socket + "socketConfig.FreeBind":                  `true`,
		socket + "socketConfig.TriggerLimitIntervalSec":   `0`,
		service + "wantedBy":                              `["multi-user.target"]`,
		service + "requires":                              `["narbor.socket"]`,
		service + "stopIfChanged":                         `false`,
		service + "unitConfig.StartLimitIntervalSec":      `0`,
		service + "serviceConfig.Type":                    `"notify"`,
		service + "serviceConfig.Restart":                 `"always"`,
		service + "serviceConfig.RestartSec":              `1`,
		service + "serviceConfig.DynamicUser":             `true`,
		service + "serviceConfig.StateDirectory":          `"narbor"`,
		service + "serviceConfig.RuntimeDirectory":        `"narbor"`,
		service + "serviceConfig.UMask":                   `"0077"`,
		service + "serviceConfig.ProtectSystem":           `"strict"`,
		service + "serviceConfig.ProtectHome":             `true`,
		service + "serviceConfig.PrivateUsers":            `true`,
		service + "serviceConfig.NoNewPrivileges":         `true`,
		service + "serviceConfig.MemoryDenyWriteExecute":  `true`,
		service + "serviceConfig.CapabilityBoundingSet":   `""`,
		service + "serviceConfig.RestrictNamespaces":      `true`,
		service + "serviceConfig.SystemCallErrorNumber":   `"EPERM"`,
		service + "serviceConfig.RestrictAddressFamilies": `["AF_UNIX","AF_INET","AF_INET6","AF_NETLINK"]`,
		service + "serviceConfig.SystemCallFilter":        `["@system-service","~@privileged @resources"]`,
		service + "serviceConfig.SupplementaryGroups":     `null`,
		service + "serviceConfig.EnvironmentFile":         `null`,
		service + "serviceConfig.AmbientCapabilities":     `null`,
		service + "serviceConfig.IPAddressDeny":           `null`,
		service + "serviceConfig.PrivateNetwork":          `null`,
		service + "environment":                           `{"HOME":"%S/narbor"}`,
		"systemd.services.nix-daemon":                     `null`,
		"services":                                        `null`,
		"networking.firewall.interfaces":                  `null`,
		"networking.firewall.allowedTCPPortRanges":        `null`,
		"options": `["cacheDirs","configureNix","enable","extraFlags","groupSecretFile","interfaces","logLevel","minFree",` +
			`"openFirewall","p2pPort","package","peers","port","share","spoolSize","trustedPublicKeys","uploadRate"]`,
	} {
		c.want(t, path, want)
	}
	if got := c.strings(t, service+"path"); len(got) != 1 || !strings.HasSuffix(got[0], "-nix") {
		t.Errorf("path = %q, want Nix alone", got)
	}
	if got := c.strings(t, "systemPackages"); len(got) != 1 || !strings.HasPrefix(got[0], "narbor-0.") {
		t.Errorf("systemPackages = %q, want narbor alone", got)
	}
	wantFlags(t, c, "--port=6273", "--share=signed", "--spool-size=4GiB", "--min-free=2GiB", "--upload-rate=0", "--log-level=info")
}

// NixOS's own options of a service and of a socket, as far as the module uses them: a misspelt one would be an error
// there, but the stand-in takes anything.
func TestModuleUsesOptionsThatExist(t *testing.T) {
	c := newFlake(t).evaluate(t, enabled)[0]
	for unit, known := range map[string][]string{
		"systemd.services.narbor": {"after", "description", "environment", "path", "requires", "serviceConfig", "stopIfChanged", "unitConfig", "wantedBy"},
		"systemd.sockets.narbor":  {"description", "socketConfig", "wantedBy"},
	} {
		m, _ := c.at(unit).(map[string]any)
		for name := range m {
			if !slices.Contains(known, name) {
				t.Errorf("%s.%s is not an option", unit, name)
			}
		}
		if len(m) != len(known) {
			t.Errorf("%s has %d options, want %d", unit, len(m), len(known))
		}
	}
}

func TestModuleAddsNothingUnlessEnabled(t *testing.T) {
	for _, c := range newFlake(t).evaluate(t, `{ }`, `{ services.narbor = { enable = false; port = 1; peers = [ "a" ]; }; }`) {
		for path, want := range map[string]string{
			"nix.settings": `{}`, "systemd.services": `{}`, "systemd.sockets": `{}`, "systemPackages": `[]`, "warnings": `[]`,
			"networking.firewall": `{"allowedTCPPorts":[],"allowedUDPPorts":[]}`,
		} {
			c.want(t, path, want)
		}
	}
}

func TestModuleFollowsItsOptions(t *testing.T) {
	cases := newFlake(t).evaluate(t,
		`{ services.narbor = { enable = true; port = 7000; p2pPort = 7001; share = "none"; spoolSize = "1GiB"; minFree = "5GiB"; uploadRate = "10MB";
		   logLevel = "debug"; peers = [ "nas" "10.0.0.5:6273" ]; interfaces.allow = [ "en*" ]; interfaces.deny = [ "wg*" ];
		   trustedPublicKeys = [ "k-1:a=" ]; cacheDirs = [ "/srv/a b" ]; extraFlags = [ "--no-mdns" "100%" ]; }; }`,
		`{ services.narbor = { enable = true; groupSecretFile = "/etc/secrets/group"; }; }`,
		`{ services.narbor = { enable = true; groupSecretFile = "${builtins.storeDir}/x-group"; }; }`,
		`{ services.narbor = { enable = true; openFirewall = false; configureNix = false; }; }`,
		`{ services.narbor.enable = true; networking.enableIPv6 = false; }`,
		`{ lib, pkgs, ... }: { services.narbor.enable = true; services.narbor.package = pkgs.go // { args.src.fileset = [ ]; }; }`)
	all, group, leaked, closed, v4, own := cases[0], cases[1], cases[2], cases[3], cases[4], cases[5]

	all.want(t, "nix.settings", `{"extra-substituters":["http://127.0.0.1:7000"]}`)
	all.want(t, "systemd.sockets.narbor.socketConfig.ListenStream", `["127.0.0.1:7000","[::1]:7000"]`)
	all.want(t, "networking.firewall", `{"allowedTCPPorts":[7001],"allowedUDPPorts":[5353]}`)
	wantFlags(t, all, "--port=7001", "--share=none", "--spool-size=1GiB", "--min-free=5GiB", "--upload-rate=10MB", "--log-level=debug",
		"--peer=nas", "--peer=10.0.0.5:6273", "--interface=en*", "--no-interface=wg*", "--trusted-key=k-1:a=",
		"--cache-dir=/srv/a b", "--no-mdns", "100%%")

	group.want(t, "systemd.services.narbor.serviceConfig.LoadCredential", `["kernel-cmdline:/proc/cmdline","group-secret:/etc/secrets/group"]`)
	group.want(t, "systemd.services.narbor.environment", `{"HOME":"%S/narbor","NARBOR_GROUP_SECRET_FILE":"%d/group-secret"}`)
	group.want(t, "systemd.services.narbor.serviceConfig.DynamicUser", `true`)
	for c, want := range map[*evaluated]string{&group: "true", &leaked: "false"} {
		if got, _ := c.at("assertions").([]any); len(got) != 1 || fmt.Sprint(got[0].(map[string]any)["assertion"]) != want {
			t.Errorf("assertions = %v, want one that is %s", got, want)
		}
	}

	closed.want(t, "nix.settings", `{}`)
	closed.want(t, "networking.firewall", `{"allowedTCPPorts":[],"allowedUDPPorts":[]}`)
	closed.want(t, "systemd.services.narbor.serviceConfig.Type", `"notify"`)

	v4.want(t, "systemd.sockets.narbor.socketConfig.ListenStream", `["127.0.0.1:6272"]`)

	if got, _ := own.at("systemd.services.narbor.serviceConfig.ExecStart").(string); !strings.Contains(got, `-go/bin/narbor"`) {
		t.Errorf("ExecStart = %s, want the package that was given", got)
	}
}

func TestModuleLeavesOthersAlone(t *testing.T) {
	c := newFlake(t).evaluate(t, `{ services.narbor.enable = true; networking.firewall.allowedTCPPorts = [ 22 ];
		nix.settings = { extra-substituters = [ "https://other" ]; substituters = [ "https://up" ]; fallback = true; }; }`)[0]
	c.want(t, "nix.settings.substituters", `["https://up"]`)
	c.want(t, "nix.settings.fallback", `true`)
	for path, want := range map[string][]string{
		"nix.settings.extra-substituters": {"http://127.0.0.1:6272", "https://other"},
	} {
		if got := slices.Sorted(slices.Values(c.strings(t, path))); !slices.Equal(got, want) {
			t.Errorf("%s = %q, want %q", path, got, want)
		}
	}
	if got, _ := c.at("networking.firewall.allowedTCPPorts").([]any); len(got) != 2 {
		t.Errorf("allowedTCPPorts = %v, want 22 and 6273", got)
	}
}

func TestModuleWarnsOfAProxy(t *testing.T) {
	const proxy = `{ services.narbor.enable = true; networking.proxy.httpProxy = "http://proxy:3128"; `
	cases := newFlake(t).evaluate(t, proxy+`}`, proxy+`networking.proxy.noProxy = "localhost"; }`,
		proxy+`networking.proxy.noProxy = "127.0.0.1,localhost"; }`)
	for i, want := range []int{1, 1, 0} {
		if got := cases[i].strings(t, "warnings"); len(got) != want {
			t.Errorf("case %d: warnings = %q, want %d", i, got, want)
		}
	}
}

func TestModuleRefusesWrongValues(t *testing.T) {
	configs := []string{
		`{ services.narbor.enabel = true; }`,
		`{ services.narbor = { enable = true; port = 65536; }; }`,
		`{ services.narbor = { enable = true; p2pPort = "6273"; }; }`,
		`{ services.narbor = { enable = true; share = "everything"; }; }`,
		`{ services.narbor = { enable = true; peers = "nas"; }; }`,
		`{ services.narbor = { enable = true; interfaces.allowed = [ ]; }; }`,
		`{ services.narbor = { enable = true; logLevel = "loud"; }; }`,
	}
	for i, c := range newFlake(t).evaluate(t, configs...) {
		if c.Success {
			t.Errorf("%s was accepted", configs[i])
		}
	}
}

// wantFlags compares what follows "narbor run" in ExecStart.
func wantFlags(t *testing.T, c evaluated, want ...string) {
	t.Helper()
	line, _ := c.at("systemd.services.narbor.serviceConfig.ExecStart").(string)
	_, flags, ok := strings.Cut(line, `/bin/narbor" "run" "`)
	if got := strings.Split(strings.TrimSuffix(flags, `"`), `" "`); !ok || !slices.Equal(got, want) {
		t.Errorf("ExecStart = %s, want the flags %q", line, want)
	}
}
