package doctor

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"narbor/cmd/narbor/dashboard"
	"narbor/p2p/mdns"
)

// skewLimit is how far a file may be in the future before the clock is to blame, and not another machine's.
const skewLimit = time.Hour

func checkPorts(ctx context.Context, p *patient) []Finding {
	http, neighbours := "6272", "6273"
	if p.running {
		if len(p.status.HTTP) > 0 {
			_, http, _ = cutLast(p.status.HTTP[0], ":")
		}
		neighbours = p.port()
	}
	var found []Finding
	for _, port := range []struct{ number, flag string }{{http, "--listen"}, {neighbours, "--port"}} {
		others := slices.DeleteFunc(portOwners(port.number), func(o owner) bool { return o.narbor() })
		if len(others) == 0 {
			continue
		}
		if slices.ContainsFunc(others, func(o owner) bool { return o.pid == 1 }) &&
			(p.running || p.showUnit(ctx, "narbor.socket")["ActiveState"] == "active") {
			continue // systemd holds narbor's socket, and starts narbor when Nix asks
		}
		found = append(found, Finding{Severity: severityError, Text: fmt.Sprintf("TCP port %s is taken by %s", port.number, names(others)),
			Fix: fmt.Sprintf("stop that, or choose another port with `narbor run %s`", port.flag)})
	}
	if others := mdns.OtherPrograms(); len(others) > 0 {
		found = append(found, Finding{Severity: severityInfo,
			Text: fmt.Sprintf("UDP port 5353 is shared with %s, which is well as long as the announcement is heard",
				strings.Join(others, ", "))})
	}
	if len(found) == 0 && !p.root {
		return []Finding{skipped("only root may see which other programs have narbor's ports")}
	}
	if len(found) == 0 {
		return []Finding{fine("no other program has narbor's ports")}
	}
	return found
}

func checkDisk(_ context.Context, p *patient) []Finding {
	sp := p.status.Spool
	switch {
	case sp.FreeBytes < 0:
		return []Finding{skipped("disk: the free space is not known")}
	case sp.FreeBytes == 0:
		return []Finding{{Severity: severityError, Text: "nothing is free where archives are verified: nothing is fetched",
			Fix: "make room, such as with nix-collect-garbage"}}
	case sp.FreeBytes < sp.MinFree:
		return []Finding{{Severity: severityError, Text: fmt.Sprintf("%s are free where archives are verified, and %s are to be left "+
			"free: nothing is fetched", dashboard.Amount(sp.FreeBytes), dashboard.Amount(sp.MinFree)),
			Fix: "make room, such as with nix-collect-garbage, or set --min-free lower"}}
	case sp.FreeBytes < 2*sp.MinFree:
		return []Finding{{Severity: severityWarning,
			Text: fmt.Sprintf("only %s are free where archives are verified; below %s nothing is fetched", dashboard.Amount(sp.FreeBytes),
				dashboard.Amount(sp.MinFree)),
			Fix: "make room, such as with nix-collect-garbage"}}
	}
	return []Finding{fine("%s are free where archives are verified", dashboard.Amount(sp.FreeBytes))}
}

// checkClock compares the clock with files that were written here.
func checkClock(context.Context, *patient) []Finding {
	for _, file := range []string{"/nix/var/nix/db/db.sqlite", NixConfFile, "/etc/machine-id"} {
		st, err := os.Stat(file)
		if err == nil && time.Until(st.ModTime()) > skewLimit {
			return []Finding{{Severity: severityWarning, Text: fmt.Sprintf("the clock says %s, but %s was written on %s. Neighbours do "+
				"not mind, but certificates of the internet do",
				time.Now().Format("2006-01-02 15:04"), file, st.ModTime().Format("2006-01-02 15:04")), Fix: "set the clock",
				Command: "timedatectl set-ntp true"}}
		}
	}
	return []Finding{fine("the clock is not behind what was written here")}
}
