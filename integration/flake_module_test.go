package integration_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

const noFirewall = `{"allowedTCPPorts":[],"allowedUDPPorts":[],"interfaces":{}}`

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
		"networking.firewall.interfaces":                  `{}`,
		"networking.firewall.allowedTCPPortRanges":        `null`,
		"failed": `[]`,
		"options": `["cacheDirs","circle","circleKeys","configFile","configureNix","dashboard","downloadRate","enable","extraFlags",` +
			`"gitDirs","gitRefs","groupSecretFile","inMemory",` +
			`"interfaces","listenAddresses",` +
			`"logLevel","minFreeDisk","name","openFirewall","p2pPort","package","peers","port","refresh","settings","share","shareKeys",` +
			`"shareSources",` +
			`"spoolSize",` +
			`"trustedPublicKeys","uploadRate","upstreams","vsock"]`,
		"settings": `{"log-level":"info","min-free":"2GiB","port":6273,"share":"signed","spool-size":"4GiB","upload-rate":"0"}`,
	} {
		c.want(t, path, want)
	}
	if got := c.strings(t, service+"path"); len(got) != 1 || !strings.HasSuffix(got[0], "-nix") {
		t.Errorf("path = %q, want Nix alone", got)
	}
	if got := c.strings(t, "systemPackages"); len(got) != 1 || !strings.HasPrefix(got[0], "narbor-0.") {
		t.Errorf("systemPackages = %q, want narbor alone", got)
	}
	wantFlags(t, c)
	if got := fmt.Sprint(c.at("check")); !strings.Contains(got, `/bin/narbor config check "$settingsPath"`) {
		t.Errorf("the settings are made by %s, which does not check them", got)
	}
}

// NixOS's own options of a service and of a socket, as far as the module uses them: a misspelt one would be an error
// there, but the stand-in takes anything.
func TestModuleUsesOptionsThatExist(t *testing.T) {
	c := newFlake(t).evaluate(t, enabled)[0]
	for unit, known := range map[string][]string{
		"systemd.services.narbor": {"after", "description", "environment", "path", "requires", "serviceConfig", "stopIfChanged",
			"unitConfig", "wantedBy"},
		"systemd.sockets.narbor": {"description", "socketConfig", "wantedBy"},
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
			"networking.firewall": noFirewall,
		} {
			c.want(t, path, want)
		}
	}
}

func TestModuleFollowsItsOptions(t *testing.T) {
	cases := newFlake(t).evaluate(t,
		`{ services.narbor = { enable = true; port = 7000; p2pPort = 7001; share = "none"; spoolSize = "1GiB"; minFreeDisk = "5GiB";
			uploadRate = "10MB"; downloadRate = "2MB"; name = "laptop";
		   logLevel = "debug"; peers = [ "nas" "10.0.0.5:6273" ]; interfaces.allow = [ "en*" ]; interfaces.deny = [ "wg*" ];
		   trustedPublicKeys = [ "k-1:a=" ]; shareKeys = [ "k-1" ]; cacheDirs = [ "/srv/a b" ]; gitDirs = [ "/srv/n.git" ];
			gitRefs = [ "refs/heads/n-*" ]; upstreams = [ "https://cache.example.org" ]; extraFlags = [ "--no-mdns" "100%" ]; }; }`,
		`{ services.narbor = { enable = true; groupSecretFile = "/etc/secrets/group"; circleKeys = [ "a-1" "b-1" ];
			shareSources = "none"; }; }`,
		`{ services.narbor = { enable = true; circleKeys = [ "a-1" ]; }; }`,
		`{ services.narbor = { enable = true; groupSecretFile = "${builtins.storeDir}/x-group"; }; }`,
		`{ services.narbor = { enable = true; openFirewall = false; configureNix = false; }; }`,
		`{ services.narbor.enable = true; networking.enableIPv6 = false; }`,
		`{ lib, pkgs, ... }: { services.narbor.enable = true; services.narbor.package = pkgs.go // { args.src.fileset = [ ]; }; }`)
	all, group, open, leaked, closed, v4, own := cases[0], cases[1], cases[2], cases[3], cases[4], cases[5], cases[6]

	all.want(t, "nix.settings", `{"extra-substituters":["http://127.0.0.1:7000"]}`)
	all.want(t, "systemd.sockets.narbor.socketConfig.ListenStream", `["127.0.0.1:7000","[::1]:7000"]`)
	all.want(t, "networking.firewall", `{"allowedTCPPorts":[7001],"allowedUDPPorts":[5353],"interfaces":{}}`)
	wantFlags(t, all, "--no-mdns", "100%%")
	all.want(t, "settings", `{"cache-dir":["/srv/a b"],"download-rate":"2MB","git-dir":["/srv/n.git"],"git-refs":["refs/heads/n-*"],`+
		`"interface":["en*"],"log-level":"debug",`+
		`"min-free":"5GiB","name":"laptop","no-interface":["wg*"],`+
		`"peer":["nas","10.0.0.5:6273"],"port":7001,"share":"none","share-key":["k-1"],"spool-size":"1GiB","trusted-key":["k-1:a="],`+
		`"upload-rate":"10MB","upstream":["https://cache.example.org"]}`)

	group.want(t, "systemd.services.narbor.serviceConfig.LoadCredential",
		`["kernel-cmdline:/proc/cmdline","group-secret:/etc/secrets/group"]`)
	group.want(t, "systemd.services.narbor.environment",
		`{"HOME":"%S/narbor","NARBOR_CIRCLE_KEY":"a-1,b-1","NARBOR_GROUP_SECRET_FILE":"%d/group-secret",`+
			`"NARBOR_SHARE_SOURCES":"none"}`)
	group.want(t, "systemd.services.narbor.serviceConfig.DynamicUser", `true`)
	group.want(t, "failed", `[]`)
	if got := open.strings(t, "failed"); len(got) != 1 || !strings.Contains(got[0], "set services.narbor.groupSecretFile") {
		t.Errorf("failed = %q, want that of a circle without a group", got)
	}
	if got := leaked.strings(t, "failed"); len(got) != 1 || !strings.Contains(got[0], "outside the Nix store") {
		t.Errorf("failed = %q, want that of a secret in the store", got)
	}

	closed.want(t, "nix.settings", `{}`)
	closed.want(t, "networking.firewall", noFirewall)
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

func TestModuleAsksWhatNixAsksBesides(t *testing.T) {
	const auto = `{ services.narbor = { enable = true; upstreams = "auto"; }; `
	for i, tt := range []struct{ config, upstream string }{
		{auto + `nix.settings.substituters = [ "https://cache.nixos.org/" ]; }`, `["https://cache.nixos.org"]`},
		{auto + `}`, `null`},
		{auto + `nix.settings.extra-substituters = [ "https://a.example?priority=50" "https://b.example/x/" ]; ` +
			`nix.settings.substituters = [ "https://a.example" ]; }`,
			`["https://a.example","https://b.example/x"]`},
		{auto + `services.narbor.configureNix = false; nix.settings.extra-substituters = "https://a.example  s3://bucket ` +
			`http://nas:5000 daemon file:///srv/cache /srv/cache https://token@c.example"; }`,
			`["https://a.example","http://nas:5000"]`},
		{auto + `services.narbor.port = 7000; services.narbor.listenAddresses = [ "10.0.0.1" ]; nix.settings.substituters = [ ` +
			`"http://127.0.0.1:7000/" "http://localhost:7000?trusted=0"
		   "http://[::1]:7000" "http://10.0.0.1:7000" "http://127.0.0.1:70001" "http://10.0.0.1:6272" ]; }`,
			`["http://127.0.0.1:70001","http://10.0.0.1:6272"]`},
		{auto + `services.narbor.settings.upstream = [ "https://mine.example" ]; nix.settings.substituters = [ "https://a.example" ]; }`,
			`["https://mine.example"]`},
		{`{ services.narbor.enable = true; nix.settings.substituters = [ "https://a.example" ]; }`, `null`},
	} {
		c := newFlake(t).evaluate(t, tt.config)[0]
		c.want(t, "settings.upstream", tt.upstream)
		c.want(t, "failed", `[]`)
		if t.Failed() {
			t.Fatalf("case %d: %s", i, tt.config)
		}
	}
	wantFailed(t, newFlake(t).evaluate(t, `{ services.narbor = { enable = true; upstreams = [ "auto" ]; }; }`)[0], `must be "auto" or URLs`)
	darwin := newFlake(t).of("darwinModules.default").evaluate(t, auto+`nix.settings.substituters = [ "https://cache.nixos.org/" ]; }`)[0]
	darwin.want(t, "settings.upstream", `["https://cache.nixos.org"]`)
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
		`{ services.narbor = { enable = true; listenAddresses = "10.0.0.1"; }; }`,
		`{ services.narbor = { enable = true; inMemory = "yes"; }; }`,
		`{ services.narbor = { enable = true; upstreams = "automatic"; }; }`,
		`{ services.narbor = { enable = true; upstreams = "https://cache.nixos.org"; }; }`,
		`{ services.narbor = { enable = true; settings.peer = [ 1 ]; }; }`,
		`{ services.narbor = { enable = true; settings.peer = null; }; }`,
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
	_, flags, ok := strings.Cut(line, `/bin/narbor" "run" "--config" "`)
	file, flags, _ := strings.Cut(strings.TrimSuffix(flags, `"`), `"`)
	got := strings.Split(flags, `" "`)
	got[0] = strings.TrimPrefix(got[0], ` "`)
	if got[0] == "" {
		got = got[1:]
	}
	if !ok || !strings.HasSuffix(file, "-narbor.json") || !slices.Equal(got, want) {
		t.Errorf("ExecStart = %s, want the flags %q", line, want)
	}
}
