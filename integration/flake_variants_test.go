package integration_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const (
	serviceConfig = "systemd.services.narbor.serviceConfig."
	listenStream  = "systemd.sockets.narbor.socketConfig.ListenStream"
	withVsock     = `["AF_UNIX","AF_INET","AF_INET6","AF_NETLINK","AF_VSOCK"]`
)

// of is the flake with another of its modules.
func (f flake) of(module string) flake {
	f.module = module
	return f
}

func TestInstallerWritesToMemoryOnly(t *testing.T) {
	cases := newFlake(t).of("nixosModules.installer").evaluate(t, `{ }`,
		`{ services.narbor = { spoolSize = "30%"; share = "none"; }; nix.settings.connect-timeout = 9; }`,
		`{ services.narbor.enable = false; }`, `{ services.narbor.spoolSize = "4GiB"; }`)
	c, changed, off, big := cases[0], cases[1], cases[2], cases[3]
	for path, want := range map[string]string{
		"failed": `[]`, "warnings": `[]`,
		"settings": `{"log-level":"info","min-free":"10%","port":6273,"share":"signed",` +
			`"spool-size":"50%","upload-rate":"0"}`,
		"nix.settings":                                `{"connect-timeout":5,"extra-substituters":["http://127.0.0.1:6272"]}`,
		"networking.firewall":                         `{"allowedTCPPorts":[6273],"allowedUDPPorts":[5353],"interfaces":{}}`,
		"systemd.services.narbor.environment":         `{"HOME":"%t/narbor","NARBOR_STATE_DIR":"%t/narbor/state"}`,
		"systemd.services.narbor.after":               `["narbor.socket","nix-daemon.socket"]`, // and no network: it may come later
		"systemd.services.narbor.wants":               `null`,
		"systemd.services.narbor.wantedBy":            `["multi-user.target"]`,
		serviceConfig + "StateDirectory":              `null`,
		serviceConfig + "CacheDirectory":              `null`,
		serviceConfig + "RuntimeDirectory":            `"narbor"`,
		serviceConfig + "RuntimeDirectoryPreserve":    `"restart"`,
		serviceConfig + "ProtectSystem":               `"strict"`,
		serviceConfig + "DynamicUser":                 `true`,
		listenStream:                                  `["127.0.0.1:6272","[::1]:6272"]`,
		"systemd.sockets.narbor.socketConfig.Accept":  `null`,
		"systemd.services.narbor.serviceConfig.UMask": `"0077"`,
		serviceConfig + "RestrictAddressFamilies":     withVsock,
	} {
		c.want(t, path, want)
	}
	changed.want(t, "settings.spool-size", `"30%"`)
	changed.want(t, "settings.share", `"none"`)
	changed.want(t, "nix.settings.connect-timeout", `9`)
	off.want(t, "systemd.services", `{}`)
	off.want(t, "networking.firewall", noFirewall)
	wantFailed(t, big, "spoolSize must be a share")
}

func TestGuestHasASmallDisk(t *testing.T) {
	c := newFlake(t).of("nixosModules.guest").evaluate(t, `{ }`)[0]
	c.want(t, "settings.spool-size", `"25%"`)
	c.want(t, "settings.min-free", `"5%"`)
	c.want(t, "nix.settings", `{"extra-substituters":["http://127.0.0.1:6272"]}`)
	c.want(t, serviceConfig+"StateDirectory", `"narbor"`)
	c.want(t, serviceConfig+"LoadCredential", `["kernel-cmdline:/proc/cmdline"]`)
	c.want(t, serviceConfig+"RestrictAddressFamilies", withVsock)
	c.want(t, "failed", `[]`)
}

func TestHostOfGuestsLetsThemIn(t *testing.T) {
	cases := newFlake(t).of("nixosModules.vm-host").evaluate(t, `{ }`,
		`{ networking.nftables.enable = true; virtualisation.libvirtd.enable = true; `+
			`services.narbor = { openFirewall = false; port = 7000; }; }`,
		`{ services.narbor.enable = false; }`,
		`{ services.narbor.guestInterfaces = [ "br-vm" ]; services.narbor.listenAddresses = [ "10.1.1.1" "[fd00::1]" ]; }`)
	plain, libvirt, off, own := cases[0], cases[1], cases[2], cases[3]
	const ports = `{"allowedTCPPorts":[6272,6273],"allowedUDPPorts":[5353]}`
	plain.want(t, "networking.firewall.interfaces", fmt.Sprintf(`{"microvm+":%s,"tap+":%[1]s,"virbr+":%[1]s,"vmbr+":%[1]s}`, ports))
	plain.want(t, "networking.firewall.allowedTCPPorts", `[6273]`) // the port for Nix is for guests alone
	plain.want(t, serviceConfig+"RestrictAddressFamilies", withVsock)
	plain.want(t, listenStream, `["127.0.0.1:6272","[::1]:6272"]`)
	libvirt.want(t, listenStream, `["127.0.0.1:7000","[::1]:7000","192.168.122.1:7000"]`)
	libvirt.want(t, "networking.firewall.allowedTCPPorts", `[]`)
	libvirt.want(t, "networking.firewall.interfaces",
		strings.ReplaceAll(fmt.Sprintf(`{"microvm*":%s,"tap*":%[1]s,"virbr*":%[1]s,"vmbr*":%[1]s}`, ports), "6272", "7000"))
	libvirt.want(t, "systemd.sockets.narbor.socketConfig.FreeBind", `true`) // libvirt makes its bridge later
	off.want(t, "networking.firewall", noFirewall)
	own.want(t, listenStream, `["127.0.0.1:6272","[::1]:6272","10.1.1.1:6272","[fd00::1]:6272"]`)
	own.want(t, "networking.firewall.interfaces", fmt.Sprintf(`{"br-vm+":%s}`, ports))
	for _, c := range cases {
		c.want(t, "failed", `[]`)
	}
}

func TestModulesMayBeCombined(t *testing.T) {
	f := newFlake(t).of("nixosModules")
	f.pick = "{ imports = with module; [ default guest vm-host default ]; }"
	c := f.evaluate(t, `{ }`)[0]
	if !c.Success {
		t.Fatal("a guest with guests of its own was refused")
	}
	c.want(t, listenStream, `["127.0.0.1:6272","[::1]:6272"]`)
	c.want(t, "settings.spool-size", `"25%"`)
}

func TestDarwinModule(t *testing.T) {
	cases := newFlake(t).of("darwinModules.default").evaluate(t, `{ }`,
		`{ services.narbor = { enable = true; peers = [ "nas" ]; extraFlags = [ "--no-mdns" ]; }; }`,
		`{ services.narbor.enable = true; nix.enable = false; }`)
	off, c, determinate := cases[0], cases[1], cases[2]
	off.want(t, "launchd", `{"daemons":{}}`)
	for path, want := range map[string]string{
		"failed": `[]`, "settings.peer": `["nas"]`, "systemd": `{}`,
		"launchd.daemons.narbor.serviceConfig.UserName":  `"_narbor"`,
		"launchd.daemons.narbor.serviceConfig.KeepAlive": `true`,
		"launchd.daemons.narbor.serviceConfig.RunAtLoad": `true`,
		"launchd.daemons.narbor.environment":             `{"HOME":"/var/lib/narbor","NARBOR_STATE_DIR":"/var/lib/narbor"}`,
		"users.knownUsers":                               `["_narbor"]`,
		"nix.settings":                                   `{"extra-substituters":["http://127.0.0.1:6272"]}`,
	} {
		c.want(t, path, want)
	}
	if got := fmt.Sprint(c.at("launchd.daemons.narbor.command")); !strings.Contains(got, "/bin/narbor' 'run' '--config' '") ||
		!strings.HasSuffix(got, "'--listen' '127.0.0.1:6272' '--listen' '[::1]:6272' '--no-mdns'") {
		t.Errorf("command = %s", got)
	}
	wantFailed(t, determinate, "needs nix.enable")
}

func TestHomeManagerModule(t *testing.T) {
	cases := newFlake(t).of("homeModules.default").evaluate(t, `{ }`,
		`{ services.narbor = { enable = true; peers = [ "nas" ]; extraFlags = [ "--no-mdns" "100%" ];
			settings.group-secret-file = "/home/ann/secret"; }; }`,
		`{ pkgs, ... }: { services.narbor = { enable = true; port = 7000; gitDirs = [ "/srv/n.git" ]; }; nix.package = pkgs.nix; }`,
		`{ services.narbor = { enable = true; openFirewall = true; }; }`)
	off, c, own, firewall := cases[0], cases[1], cases[2], cases[3]
	off.want(t, "systemd", `{"user":{"services":{},"sockets":{}}}`)
	off.want(t, "systemPackages", `[]`)
	const service, socket = "systemd.user.services.narbor.", "systemd.user.sockets.narbor."
	for path, want := range map[string]string{
		"failed": `[]`, "warnings": `[]`, "undescribed": `[]`, "settings.peer": `["nas"]`,
		"settings.group-secret-file":        `"/home/ann/secret"`,
		"nix.settings":                      `{"extra-substituters":["http://127.0.0.1:6272"]}`,
		socket + "Socket.ListenStream":      `["127.0.0.1:6272"]`,
		socket + "Install.WantedBy":         `["sockets.target"]`,
		service + "Unit.Requires":           `["narbor.socket"]`,
		service + "Service.Type":            `"notify"`,
		service + "Service.Restart":         `"always"`,
		service + "Service.NoNewPrivileges": `true`,
		service + "Service.DynamicUser":     `null`,
		service + "Install.WantedBy":        `["default.target"]`,
	} {
		c.want(t, path, want)
	}
	if got := fmt.Sprint(c.at(service + "Service.ExecStart")); !strings.Contains(got, `/bin/narbor" "run" "--config" "`) ||
		!strings.HasSuffix(got, `"--no-mdns" "100%%"`) {
		t.Errorf("ExecStart = %s", got)
	}
	got := c.strings(t, service+"Service.Environment")
	if len(got) != 1 || !strings.HasPrefix(got[0], "PATH=%h/.nix-profile/bin:/nix/var/") {
		t.Errorf("Environment = %q, want PATH alone, without a Nix of its own", got)
	}
	own.want(t, socket+"Socket.ListenStream", `["127.0.0.1:7000"]`)
	got = own.strings(t, service+"Service.Environment")
	if len(got) != 1 || !strings.Contains(got[0], "-nix/bin:") || !strings.Contains(got[0], "-git/bin:") {
		t.Errorf("Environment = %q, want the Nix that was given, and git", got)
	}
	if firewall.Success {
		t.Error("the module of a user takes an option about the firewall")
	}
}

func TestSystemManagerModule(t *testing.T) {
	cases := newFlake(t).of("systemManagerModules.default").evaluate(t, `{ }`,
		`{ services.narbor.enable = true; nix.enable = true; }`,
		`{ services.narbor = { enable = true; port = 7000; refresh = true; }; }`,
		`{ services.narbor = { enable = true; configureNix = false; }; }`)
	off, c, unwritten, own := cases[0], cases[1], cases[2], cases[3]
	off.want(t, "systemd", `{"services":{},"sockets":{},"timers":{}}`)
	for path, want := range map[string]string{
		"failed": `[]`, "warnings": `[]`, "undescribed": `[]`,
		"nix.settings":                     `{"extra-substituters":["http://127.0.0.1:6272"]}`,
		"systemd.sockets.narbor.wantedBy":  `["system-manager.target","sockets.target"]`,
		"systemd.services.narbor.wantedBy": `["system-manager.target","multi-user.target"]`,
		serviceConfig + "DynamicUser":      `true`,
		serviceConfig + "Type":             `"notify"`,
		listenStream:                       `["127.0.0.1:6272","[::1]:6272"]`,
	} {
		c.want(t, path, want)
	}
	unwritten.want(t, "systemd.timers.narbor-refresh.wantedBy", `["system-manager.target","timers.target"]`)
	if got := unwritten.strings(t, "warnings"); len(got) != 1 || !strings.HasSuffix(got[0], "extra-substituters = http://127.0.0.1:7000") {
		t.Errorf("warnings = %q, want the line for nix.conf", got)
	}
	own.want(t, "warnings", `[]`)
}

func TestSettingsGoBeforeOptions(t *testing.T) {
	c := newFlake(t).evaluate(t, `{ services.narbor = { enable = true; uploadRate = "1MB"; peers = [ "a" ];
		settings = { upload-rate = "2MB"; no-mdns = true; peer = [ "b" "c" ]; allow-host = [ "builder.lan" ]; }; }; }`)[0]
	c.want(t, "settings", `{"allow-host":["builder.lan"],"log-level":"info","min-free":"2GiB","no-mdns":true,"peer":["b","c"],`+
		`"port":6273,"share":"signed","spool-size":"4GiB","upload-rate":"2MB"}`)
}

// narbor itself must accept what the module writes, and refuse what only it can tell to be wrong.
func TestNarborAcceptsTheModulesSettings(t *testing.T) {
	if programs.err != nil {
		t.Fatal(programs.err)
	}
	cases := newFlake(t).evaluate(t, enabled,
		`{ services.narbor = { enable = true; p2pPort = 7001; share = "none"; spoolSize = "25%"; minFreeDisk = "5%";
			uploadRate = "10MB"; logLevel = "debug";
		   peers = [ "nas" "10.0.0.5:6273" ]; interfaces.allow = [ "en*" ]; interfaces.deny = [ "wg*" ]; cacheDirs = [ "/srv/a b" ];
			upstreams = [ "https://cache.nixos.org" ]; }; }`,
		`{ services.narbor = { enable = true; dashboard.enable = false; }; }`,
		`{ services.narbor = { enable = true; settings.uplod-rate = "1MB"; }; }`,
		`{ services.narbor = { enable = true; spoolSize = "much"; }; }`)
	for i, want := range []string{"all well", "all well", "all well", `no setting "uplod-rate"`, "--spool-size"} {
		text, err := json.Marshal(cases[i].at("settings"))
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "narbor.json")
		if err := os.WriteFile(file, text, 0o644); err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), filepath.Join(programs.dir, "narbor"), "config", "check", file).CombinedOutput()
		if (err == nil) != (want == "all well") || !strings.Contains(string(out), want) {
			t.Errorf("narbor config check of %s: %v, %s, want %q", text, err, out, want)
		}
	}
}

func TestDashboardCanBeLeftOut(t *testing.T) {
	cases := newFlake(t).evaluate(t, enabled, `{ services.narbor = { enable = true; dashboard.enable = false; }; }`,
		`{ services.narbor = { enable = true; dashboard.enable = false; settings.no-page = false; }; }`)
	cases[0].want(t, "settings.no-page", `null`)
	cases[1].want(t, "settings.no-page", `true`)
	cases[1].want(t, "failed", `[]`)
	cases[1].want(t, "systemd.sockets.narbor.socketConfig.ListenStream", `["127.0.0.1:6272","[::1]:6272"]`) // Nix asks as before
	cases[2].want(t, "settings.no-page", `false`)
	newFlake(t).of("darwinModules.default").evaluate(t, `{ services.narbor = { enable = true; dashboard.enable = false; }; }`)[0].want(t,
		"settings.no-page", `true`)
}

// circleKey is a public key of a circle.
const circleKey = "home-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="

func TestModuleOfACircle(t *testing.T) {
	member := `secretFile = "/etc/secrets/group"; publicKeys = [ "` + circleKey + `" ];`
	cases := newFlake(t).evaluate(t, `{ services.narbor = { enable = true; circle = { `+member+` }; }; }`,
		`{ services.narbor = { enable = true; circleKeys = [ "old-1" ]; circle = { `+member+` signBuilds = "/etc/secrets/key"; }; }; }`)
	for i, c := range cases {
		c.want(t, "failed", `[]`)
		c.want(t, "systemd.services.narbor.serviceConfig.LoadCredential",
			`["kernel-cmdline:/proc/cmdline","group-secret:/etc/secrets/group"]`)
		c.want(t, "systemd.services.narbor.environment.NARBOR_GROUP_SECRET_FILE", `"%d/group-secret"`)
		c.want(t, "systemd.services.narbor.environment.NARBOR_CIRCLE_KEY", []string{`"home-1"`, `"old-1,home-1"`}[i])
		c.want(t, "nix.settings.extra-trusted-public-keys", `["`+circleKey+`"]`)
		c.want(t, "nix.settings.secret-key-files", []string{`null`, `["/etc/secrets/key"]`}[i])
	}
}

// A configuration that evaluates but cannot be meant is reported, with its remedy.
func TestAssertionsSayTheFix(t *testing.T) {
	wrong := []struct{ config, says string }{
		{`port = 7000; p2pPort = 7000;`, "need a port each. Change one"},
		{`extraFlags = [ "--config=/x" ];`, "put what is in that file into services.narbor.settings"},
		{`cacheDirs = [ "cache" ];`, "must be absolute paths"},
		{`peers = [ "a,b" ];`, "make each address an element of the list"},
		{`peers = [ "a b" ];`, "make each address an element of the list"},
		{`groupSecretFile = "secret";`, "an absolute path outside the Nix store"},
		{`circle = { secretFile = "/s"; publicKeys = [ "home-1" ]; };`, "must be keys such as home-1:"},
		{`circle.publicKeys = [ "` + circleKey + `" ];`, "set services.narbor.circle.secretFile, too"},
		{`circle = { secretFile = "/s"; signBuilds = "/k"; };`, "set services.narbor.circle.publicKeys, too"},
		{`circle = { secretFile = "/s"; publicKeys = [ "` + circleKey + `" ]; signBuilds = "${builtins.storeDir}/k"; };`,
			"absolute paths outside the Nix store"},
		{`groupSecretFile = "/s"; circle.secretFile = "/s";`, "leave out services.narbor.groupSecretFile"},
		{`listenAddresses = [ "192.168.122.1:6272" ];`, "without a port"},
		{`listenAddresses = [ "fd00::1" ];`, "IPv6 addresses in brackets"},
		{`inMemory = true;`, "such as 50%"},
		{`upstreams = [ "cache.nixos.org" ];`, "must be \"auto\" or URLs such as"},
		{`settings.listen = [ "127.0.0.1:1" ];`, "use services.narbor.port"},
		{`settings.state-dir = "/x";`, "the service manager chooses it"},
		{`settings.socket = "/x";`, "the service manager chooses it"},
		{`settings.group-secret-file = "/x";`, "use services.narbor.groupSecretFile"},
		{`settings.config = "/x";`, "this is that file"},
	}
	var configs []string
	for _, w := range wrong {
		configs = append(configs, `{ services.narbor = { enable = true; `+w.config+` }; }`)
	}
	for i, c := range newFlake(t).evaluate(t, configs...) {
		wantFailed(t, c, wrong[i].says)
	}
}

func TestModuleWarnsOfHarmfulSettings(t *testing.T) {
	cases := newFlake(t).evaluate(t,
		`{ services.narbor.enable = true; nix.settings = { require-sigs = true; allowed-users = [ "@wheel" "*" ]; substituters = [ `+
			`"https://cache.nixos.org" ]; }; }`,
		`{ services.narbor.enable = true; nix.settings.allowed-users = [ "narbor" ]; }`,
		`{ services.narbor.enable = true; nix.settings.require-sigs = false; }`,
		`{ services.narbor.enable = true; nix.settings.allowed-users = [ "@wheel" ]; }`,
		`{ services.narbor.enable = true; nix.settings.substituters = [ "http://127.0.0.1:6272" ]; }`)
	for i, want := range []string{"", "", "Remove that line", `add "narbor" to nix.settings.allowed-users`, "nixos-anywhere copies"} {
		got := cases[i].strings(t, "warnings")
		if len(got) != min(len(want), 1) || want != "" && !strings.Contains(got[0], want) {
			t.Errorf("case %d: warnings = %q, want %q", i, got, want)
		}
	}
}

// wantFailed looks for the one assertion that fails.
func wantFailed(t *testing.T, c evaluated, says string) {
	t.Helper()
	if !c.Success {
		t.Errorf("not evaluated, but should fail with %q", says)
		return
	}
	if got := c.strings(t, "failed"); len(got) != 1 || !slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, says) }) {
		t.Errorf("failed = %q, want one that says %q", got, says)
	}
}

// Under a real systemd, what the installer's unit changes leaves narbor working, and nothing outside /run is its own.
func TestInstallersUnitKeepsAllInMemory(t *testing.T) {
	c := newFlake(t).of("nixosModules.installer").evaluate(t, `{ }`)[0]
	dropIn := "[Service]\nStateDirectory=\n"
	for name, value := range c.at("systemd.services.narbor.environment").(map[string]any) {
		dropIn += fmt.Sprintf("Environment=%s=%s\n", name, value)
	}
	dropIn += fmt.Sprintf("RuntimeDirectoryPreserve=%s\nEnvironment=NARBOR_SPOOL_SIZE=%s NARBOR_MIN_FREE=%s\n",
		c.at(serviceConfig+"RuntimeDirectoryPreserve"),
		strings.ReplaceAll(fmt.Sprint(c.at("settings.spool-size")), "%", "%%"),
		strings.ReplaceAll(fmt.Sprint(c.at("settings.min-free")), "%", "%%"))
	s := bootSystemd(t, dropIn)
	s.await("narbor.service", "active")
	var before, after struct {
		PeerID string
		Spool  struct{ MaxBytes int64 }
	}
	for _, into := range []any{&before, &after} {
		if err := json.Unmarshal([]byte(s.run("sh", "-c", "narbor status --json || test $? = 4")), into); err != nil {
			t.Fatal(err)
		}
		s.run("systemctl", "restart", "narbor.service")
		s.await("narbor.service", "active")
	}
	if before.PeerID == "" || before.PeerID != after.PeerID || before.Spool.MaxBytes <= 0 || before.Spool.MaxBytes == 4<<30 {
		t.Errorf("before a restart %+v, after it %+v: want the same identity, and a spool that is a share of /run", before, after)
	}
	if got := s.run("stat", "-c", "%a", "/run/narbor/state"); strings.TrimSpace(got) != "700" {
		t.Errorf("/run/narbor/state has mode %s, want 700", got)
	}
	if got := s.run("sh", "-c", "ls -d /var/lib/narbor /var/lib/private/narbor /var/cache/narbor 2>/dev/null || true"); got != "" {
		t.Errorf("there is %s, but all should be in /run", got)
	}
}
