package doctor

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
)

// fixed runs the command of a finding, and returns what was printed.
func fixed(t *testing.T, f *Fixer, found Finding) string {
	t.Helper()
	var out bytes.Buffer
	f.Out, f.Say = &out, func(first, text string) { fmt.Fprintln(&out, first+text) }
	f.found = []Finding{found}
	f.fix(t.Context(), found)
	return out.String()
}

func TestFixIsFollowedByTheSameCheck(t *testing.T) {
	mark := filepath.Join(t.TempDir(), "mark")
	found := Finding{Code: "disk", Severity: severityError, Text: "no mark", Command: "touch " + mark, Safe: true}
	f := &Fixer{look: func(code string) []Finding {
		if _, err := os.Stat(mark); code == "disk" && err == nil {
			return []Finding{fine("a mark")}
		}
		return []Finding{found}
	}}
	if out := fixed(t, f, found); !strings.Contains(out, "that helped") {
		t.Errorf("a fix that helps:\n%s", out)
	}
	failing := Finding{Code: "disk", Severity: severityError, Text: "no luck", Command: "false", Safe: true}
	if out := fixed(t, f, failing); !strings.Contains(out, "that failed") {
		t.Errorf("a command that fails:\n%s", out)
	}
	if left := f.Settle([]Finding{found, failing}); !reflect.DeepEqual(left[0], found) || left[1].Command != "" || left[1].Safe {
		t.Errorf("afterwards doctor offers %+v, want only what was not tried in vain", left)
	}
}

func TestFixThatDoesNotHelpIsNotOfferedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		found := Finding{Code: "disk", Severity: severityError, Text: "full", Command: "true", Safe: true}
		looks := 0
		f := &Fixer{look: func(string) []Finding {
			looks++
			return []Finding{found}
		}}
		if out := fixed(t, f, found); !strings.Contains(out, "that did not help: full") || looks < 2 {
			t.Errorf("a fix that does not help, after %d looks:\n%s", looks, out)
		}
		if got := f.Settle([]Finding{found})[0]; got.Command != "" || !strings.Contains(got.Text, "has not helped: true") ||
			got.Severity != severityError {
			t.Errorf("afterwards doctor says %+v", got)
		}
		other := Finding{Code: "disk", Severity: severityWarning, Text: "slow"}
		f.look = func(string) []Finding { return []Finding{other} }
		if out := fixed(t, f, Finding{Code: "disk", Severity: severityError, Text: "empty", Command: "true"}); !strings.Contains(out,
			"this is left: slow") {
			t.Errorf("a fix that shows another fault:\n%s", out)
		}
	})
}
