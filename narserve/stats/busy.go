package stats

import "time"

// busy is the time in which Nix waits for or receives NARs. The caller of its methods holds the lock of the accounts.
type busy struct {
	serving int       // requests for NARs that are being answered
	since   time.Time // when the first of these began
	saved   int64     // bytes that neighbours have saved since
}

// Begin records the start of an answer to a request for a NAR. The caller calls End when it is through.
func (a *Accounts) Begin() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.busy.serving++; a.busy.serving == 1 {
		a.busy.since, a.busy.saved = time.Now(), 0
	}
}

// End records the end of an answer to a request for a NAR.
func (a *Accounts) End() {
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.busy.serving--; a.busy.serving > 0 {
		return
	}
	took := now.Sub(a.busy.since).Seconds()
	a.book(now, Amounts{Seconds: took, SavedSeconds: max(0, float64(a.busy.saved)/internetRate-took)})
}
