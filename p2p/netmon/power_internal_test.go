package netmon

import (
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

// supply writes attributes of a power supply, as the kernel does.
func supply(t *testing.T, dir, name string, attributes map[string]string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
		t.Fatal(err)
	}
	for attribute, value := range attributes {
		if err := os.WriteFile(filepath.Join(dir, name, attribute), []byte(value+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestBatteryIsDetected(t *testing.T) {
	type supplies map[string]map[string]string
	battery := func(status string) map[string]string { return map[string]string{"type": "Battery", "status": status} }
	from := func(kind, online string) map[string]string { return map[string]string{"type": kind, "online": online} }
	of := func(scope string, s map[string]string) map[string]string {
		s["scope"] = scope
		return s
	}
	for name, tt := range map[string]struct {
		supplies supplies
		want     bool
	}{
		"a laptop that is unplugged":            {supplies{"AC": from("Mains", "0"), "BAT0": battery("Discharging")}, true},
		"a laptop that is plugged in":           {supplies{"AC": from("Mains", "1"), "BAT0": battery("Charging")}, false},
		"one that is plugged in and needs more": {supplies{"AC": from("Mains", "1"), "BAT0": battery("Discharging")}, false},
		"one that is full":                      {supplies{"AC": from("Mains", "1"), "BAT0": battery("Full")}, false},
		"one that is charged by USB": {supplies{"ADP1": from("Mains", "0"), "ucsi": from("USB", "1"),
			"BAT0": battery("Not charging")}, false},
		"one that could be charged by USB": {supplies{"ADP1": from("Mains", "0"), "ucsi": from("USB", "0"),
			"BAT0": battery("Discharging")}, true},
		"two batteries, of which one is discharged": {supplies{"AC": from("Mains", "0"), "BAT0": battery("Unknown"),
			"BAT1": battery("Discharging")}, true},
		"a battery that says what it is for":  {supplies{"BAT0": of("System", battery("Discharging"))}, true},
		"a workstation with a wireless mouse": {supplies{"hidpp_battery_0": of("Device", battery("Discharging"))}, false},
		"a laptop whose graphics tablet is plugged in": {supplies{"wacom_ac": of("Device", from("Mains", "1")),
			"BAT0": battery("Discharging")}, true},
		"a server whose UPS is all that it has":         {supplies{"ups": {"type": "UPS", "status": "Discharging", "online": "0"}}, false},
		"a supply that does not say what it is":         {supplies{"x": {"status": "Discharging"}}, false},
		"a battery that cannot tell":                    {supplies{"BAT0": battery("Unknown")}, false},
		"a machine with neither":                        {supplies{}, false},
		"a laptop whose kernel does not tell of online": {supplies{"AC": {"type": "Mains"}, "BAT0": battery("Discharging")}, true},
	} {
		dir := t.TempDir()
		for supplyName, attributes := range tt.supplies {
			supply(t, dir, supplyName, attributes)
		}
		if got := (&Power{Dir: dir}).OnBattery(); got != tt.want {
			t.Errorf("%s is on battery: %v, want %v", name, got, tt.want)
		}
	}
	for _, dir := range []string{"", filepath.Join(t.TempDir(), "absent")} {
		if (&Power{Dir: dir}).OnBattery() {
			t.Errorf("with %q a machine is on battery", dir)
		}
	}
}

func TestPowerIsLookedAtNowAndThen(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		p := &Power{Dir: dir}
		if p.OnBattery() {
			t.Error("a machine without a battery is on battery")
		}
		supply(t, dir, "BAT0", map[string]string{"type": "Battery", "status": "Discharging"})
		time.Sleep(powerFresh - time.Nanosecond)
		if p.OnBattery() {
			t.Error("it is looked at each time")
		}
		time.Sleep(time.Nanosecond)
		if !p.OnBattery() {
			t.Errorf("after %s it is not looked at", powerFresh)
		}
	})
}
