package netmon

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// powerFresh is how long the last answer to whether the machine is on mains or on battery is relied on: each check
// reads a few files, one of which may cost an embedded controller milliseconds.
const powerFresh = 10 * time.Second

// PowerSupplies is where Linux lists a machine's power supplies; elsewhere there is no such directory.
const PowerSupplies = "/sys/class/power_supply"

// A Power knows whether a machine runs on battery, from a directory such as [PowerSupplies].
type Power struct {
	Dir string

	mu      sync.Mutex // guards the rest
	battery bool
	until   time.Time // when battery is to be looked at anew
}

// onBattery says whether a battery of the machine's own is being discharged, and nothing from outside powers it.
// Without a battery, or a directory, it does not.
func (p *Power) OnBattery() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now := time.Now(); !now.Before(p.until) {
		p.battery, p.until = dischargesBattery(p.Dir), now.Add(powerFresh)
	}
	return p.battery
}

// dischargesBattery reads what Documentation/ABI/testing/sysfs-class-power of the kernel describes. What powers a mouse
// or a tablet has the scope of a device, and a UPS is no battery.
func dischargesBattery(dir string) bool {
	supplies, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	var batteries []string
	for _, s := range supplies {
		of := func(attribute string) string {
			b, _ := os.ReadFile(filepath.Join(dir, s.Name(), attribute)) // not every supply has every attribute
			return strings.TrimSpace(string(b))
		}
		if of("scope") == "Device" {
			continue
		}
		switch of("type") {
		case "Mains", "USB", "Wireless":
			if online := of("online"); online != "0" && online != "" {
				return false
			}
		case "Battery":
			batteries = append(batteries, filepath.Join(dir, s.Name(), "status"))
		}
	}
	for _, name := range batteries { // the last to be asked, for an embedded controller may take its time to answer
		if status, _ := os.ReadFile(name); strings.TrimSpace(string(status)) == "Discharging" {
			return true
		}
	}
	return false
}
