package main

import (
	"strings"
	"testing"
)

// systemd itself sets no limit for a unit of this type. The NixOS module must have the same settings, see integration.
func TestRefreshUnitEndsAfterAMinute(t *testing.T) {
	if !strings.Contains(refreshUnit, "\nTimeoutStartSec=60\n") {
		t.Errorf("narbor-refresh.service has another limit than a minute:\n%s", refreshUnit)
	}
}
