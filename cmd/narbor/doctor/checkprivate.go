package doctor

import (
	"fmt"
	"os"
	"strings"
)

// privateKeys says for each private key how it is made public. That is the user's decision, so no command is offered
// for `narbor doctor --fix` to run.
func (p *patient) privateKeys() []Finding {
	if len(p.status.PrivateKeys) == 0 {
		return nil
	}
	f := Finding{Severity: severityInfo, Text: fmt.Sprintf("what only %s has signed goes %s", strings.Join(p.status.PrivateKeys, " or "),
		p.status.PrivateGoes())}
	f.Fix = "if every neighbour may have all paths that such a key has signed: " + shareKeyLine(p.status.PrivateKeys, p.nixOS)
	if len(p.status.ShareKeys) == 0 {
		f.Severity = severityWarning
		f.Text = "nothing is shared, for every trusted key is private: " + strings.Join(p.status.PrivateKeys, ", ")
	}
	return []Finding{f}
}

// shareKeyLine is the line that makes keys public, and where it goes.
func shareKeyLine(names []string, nixOS bool) string {
	if nixOS {
		return fmt.Sprintf(`services.narbor.shareKeys = [ "%s" ];`, strings.Join(names, `" "`))
	}
	if _, err := os.Stat("/etc/systemd/system/narbor.service"); err == nil {
		return "NARBOR_SHARE_KEY=" + strings.Join(names, ",") + " in /etc/default/narbor"
	}
	if _, err := os.Stat("/etc/default/narbor"); err == nil {
		return "NARBOR_SHARE_KEY=" + strings.Join(names, ",") + " in /etc/default/narbor"
	}
	return "narbor run --share-key " + strings.Join(names, " --share-key ")
}
