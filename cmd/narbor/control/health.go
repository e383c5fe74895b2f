package control

// Severities of [Health].
const (
	SeverityError   = "error"   // nothing comes from neighbours, or nothing goes to them, until it is mended
	SeverityWarning = "warning" // less than could be
	SeverityInfo    = "info"    // nothing to mend
	SeverityOK      = "ok"      // it was looked at, and is well
	SeveritySkipped = "skipped" // it could not be looked at, and Text says why
)

// Health is a problem and its remedy. It is also the finding of one check of `narbor doctor`. A problem that both
// report has the same code: the name of the check.
type Health struct {
	Code     string `json:"code"` // a few words with dashes, always the same for the same thing
	Severity string `json:"severity"`
	Title    string `json:"title,omitempty"`
	Text     string `json:"text"`
	Fix      string `json:"fix,omitempty"`     // the remedy, for people
	Command  string `json:"command,omitempty"` // to copy
	Safe     bool   `json:"safe"`              // the command takes nothing away from any user: a program may run it as root
	AsUser   bool   `json:"asUser,omitempty"`  // the command changes what belongs to the user that asked, and is not for root
	// Means are the ways in which it was found out, where there are several; a word each.
	Means []string `json:"means,omitempty"`
}

// Degraded reports whether the problem limits narbor's service.
func (h Health) Degraded() bool { return h.Severity == SeverityError || h.Severity == SeverityWarning }
