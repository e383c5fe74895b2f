package doctor

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"narbor/cmd/narbor/dashboard"
	"narbor/store/rebase"
)

// profilesDir has the profiles of Nix, each with a link for each of its generations: NAME-N-link.
const profilesDir = "/nix/var/nix/profiles"

// minWanted is the least number of paths of which a share is meaningful.
const minWanted = 50

// checkRebuilds reports a garbage collection before an update: narbor rebuilds paths from the versions that the store
// had before, and without these it fetches them.
func checkRebuilds(_ context.Context, p *patient) []Finding {
	return []Finding{rebuildsFinding(p.status.Rebuilds, withoutOldGenerations(profilesDir))}
}

// rebuildsFinding judges the paths that were wanted; profile is one without its older generations, or "".
func rebuildsFinding(n rebase.Recent, profile string) Finding {
	paths := dashboard.Plural(n.Wanted, "path")
	switch {
	case n.Wanted == 0:
		return fine("Nix has wanted no path from narbor yet")
	case n.Wanted < minWanted || n.NoOld*10 < n.Wanted*9:
		return fine("of %s that Nix wanted, %d had another version here", paths, n.Wanted-n.NoOld)
	case profile == "":
		return fine("of %s that Nix wanted, %d are new here", paths, n.NoOld)
	}
	return Finding{Severity: severityInfo,
		Text: "nearly all of " + paths + " that Nix wanted had no other version in the store, and all older generations of the profile " +
			profile + " are deleted",
		Fix: "collect garbage after an update and not before it: paths that only have new names are then rebuilt and not transferred"}
}

// withoutOldGenerations returns a profile that has had several generations and has one left; "" if there is none.
func withoutOldGenerations(dir string) string {
	links, err := filepath.Glob(filepath.Join(dir, "*-link"))
	more, err2 := filepath.Glob(filepath.Join(dir, "per-user", "*", "*-link"))
	if err != nil || err2 != nil { // only a malformed pattern
		return ""
	}
	left, last := map[string]int{}, map[string]int{}
	for _, link := range append(links, more...) {
		name := strings.TrimSuffix(link, "-link")
		i := strings.LastIndexByte(name, '-')
		n, err := strconv.Atoi(name[i+1:])
		if _, lerr := os.Readlink(link); i < 0 || err != nil || lerr != nil {
			continue
		}
		left[name[:i]]++
		last[name[:i]] = max(last[name[:i]], n)
	}
	var alone []string
	for name, n := range left {
		if n == 1 && last[name] > 1 {
			alone = append(alone, name)
		}
	}
	if len(alone) == 0 {
		return ""
	}
	return slices.Min(alone)
}
