package integration_test

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// maxExposure is ten times the score of `systemd-analyze security`, 0 to 100, that the service may have. Most of
// the score is for the network, without which it has no use. The drop-in for vsock adds 2.
const maxExposure = 12

// A unit is the settings of a unit file by section and name; one that is given twice has two values.
type unit map[string]map[string][]string

func TestUnitsAreAlikeOnNixOSAndElsewhere(t *testing.T) {
	service, socket := nixosUnits(t)
	refresh, timer := nixosRefresh(t)
	plain, plainRefresh := readUnit(t, "../cmd/narbor/units/narbor.service"), readUnit(t, "../cmd/narbor/units/narbor-refresh.service")
	delete(plainRefresh["Service"], "ExecStart")
	delete(refresh["Service"], "ExecStart")
	for _, only := range []string{"ExecStart", "Environment", "EnvironmentFile"} {
		delete(plain["Service"], only)
		delete(service["Service"], only)
	}
	for _, c := range []struct {
		name        string
		plain, here unit
	}{{"narbor.service", plain, service}, {"narbor.socket", readUnit(t, "../cmd/narbor/units/narbor.socket"), socket},
		{"narbor-refresh.service", plainRefresh, refresh},
		{"narbor-refresh.timer", readUnit(t, "../cmd/narbor/units/narbor-refresh.timer"), timer}} {
		if !reflect.DeepEqual(c.plain, c.here) {
			t.Errorf("%s for Linux:\n%s\nbut on NixOS:\n%s", c.name, c.plain, c.here)
		}
	}
}

func TestUnitsSatisfySystemd(t *testing.T) {
	flakeNeeds(t, "systemd-analyze")
	service, socket := nixosUnits(t)
	for where, units := range map[string]map[string]unit{
		"plain Linux": {"narbor.service": readUnit(t, "../cmd/narbor/units/narbor.service"),
			"narbor.socket": readUnit(t, "../cmd/narbor/units/narbor.socket")},
		"plain Linux, refresh": {"narbor-refresh.service": readUnit(t, "../cmd/narbor/units/narbor-refresh.service"),
			"narbor-refresh.timer": readUnit(t, "../cmd/narbor/units/narbor-refresh.timer")},
		"NixOS": {"narbor.service": service, "narbor.socket": socket},
	} {
		t.Run(where, func(t *testing.T) {
			dir := t.TempDir()
			var files []string
			for name, u := range units {
				if u["Service"] != nil {
					u["Service"]["ExecStart"] = []string{"/bin/true"} // narbor is not installed here
				}
				file := filepath.Join(dir, name)
				if err := os.WriteFile(file, []byte(u.String()), 0o644); err != nil {
					t.Fatal(err)
				}
				files = append(files, file)
			}
			slices.Sort(files)
			analyze(t, append([]string{"verify", "--man=no", "--recursive-errors=no"}, files...)...)
			analyze(t, "security", "--offline=true", fmt.Sprintf("--threshold=%d", maxExposure), files[0])
		})
	}
}

func analyze(t *testing.T, args ...string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "systemd-analyze", args...).CombinedOutput()
	if err != nil || args[0] == "verify" && len(out) > 0 {
		t.Errorf("systemd-analyze %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// nixosUnits renders the units of the service that the module makes, as NixOS does.
func nixosUnits(t *testing.T) (service, socket unit) {
	c := newFlake(t).evaluate(t, enabled)[0]
	return nixosUnit(c, "services.narbor", "Service"), nixosUnit(c, "sockets.narbor", "Socket")
}

// nixosRefresh renders the units that the option refresh adds.
func nixosRefresh(t *testing.T) (service, timer unit) {
	c := newFlake(t).evaluate(t, `{ services.narbor = { enable = true; refresh = true; }; }`)[0]
	return nixosUnit(c, "services.narbor-refresh", "Service"), nixosUnit(c, "timers.narbor-refresh", "Timer")
}

func nixosUnit(c evaluated, name, section string) unit {
	path := "systemd." + name + "."
	u := unit{"Unit": {}, section: {}}
	if section != "Service" || name == "services.narbor" {
		u["Install"] = map[string][]string{}
	}
	for _, s := range []struct{ section, name, path string }{{"Unit", "Description", "description"}, {"Unit", "Requires", "requires"},
		{"Unit", "After", "after"}, {"Install", "WantedBy", "wantedBy"}} {
		u.set(s.section, s.name, c.at(path+s.path))
	}
	for from, to := range map[string]string{"unitConfig": "Unit", strings.ToLower(section) + "Config": section} {
		m, _ := c.at(path + from).(map[string]any)
		for name, value := range m {
			u.set(to, name, value)
		}
	}
	return u
}

// set adds a value that came as JSON. A list of units stands on one line, all other lists have a line for each value.
func (u unit) set(section, name string, value any) {
	switch v := value.(type) {
	case nil:
	case []any:
		var values []string
		for _, one := range v {
			values = append(values, fmt.Sprint(one))
		}
		if section != "Service" && section != "Socket" {
			values = []string{strings.Join(values, " ")}
		}
		u[section][name] = values
	default:
		u[section][name] = []string{fmt.Sprint(v)}
	}
}

func readUnit(t *testing.T, path string) unit {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	u, section := unit{}, ""
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		name, value, ok := strings.Cut(line, "=")
		switch {
		case line == "" || line[0] == '#':
		case line[0] == '[':
			section = strings.Trim(line, "[]")
			u[section] = map[string][]string{}
		case !ok || section == "":
			t.Fatalf("%s: %q is neither a section nor a setting", path, line)
		default:
			u[section][name] = append(u[section][name], value)
		}
	}
	return u
}

// String is the text of the unit file, sorted.
func (u unit) String() string {
	var b strings.Builder
	for _, section := range slices.Sorted(maps.Keys(u)) {
		fmt.Fprintf(&b, "[%s]\n", section)
		for _, name := range slices.Sorted(maps.Keys(u[section])) {
			for _, value := range u[section][name] {
				fmt.Fprintf(&b, "%s=%s\n", name, value)
			}
		}
	}
	return b.String()
}
