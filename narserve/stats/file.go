package stats

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"narbor/store"
	"narbor/store/statefile"
)

const (
	// maxAccountsFile is far above what accounts take as JSON with every bound reached, some 1.3 MiB.
	maxAccountsFile = 4 << 20
	// saveEvery is how much of the accounts a loss of power can cost.
	saveEvery = 5 * time.Minute
)

// A keptAccount is the content of the file: the accounts, and the misses that [Accounts.Run] has not looked for yet, so
// that paths that Nix fetched elsewhere just before a restart are counted after it.
type keptAccount struct {
	Account
	Missed []keptMiss `json:"missed,omitempty"`
}

// Open returns accounts that are kept in a file, with the file's content. If the file cannot be read as a whole
// it is not used at all: the error says so, and the accounts are empty, but can be used.
func Open(file string) (*Accounts, error) {
	a := New()
	a.file = file
	text, _, err := statefile.ReadText(file, maxAccountsFile)
	if errors.Is(err, fs.ErrNotExist) {
		return a, nil
	}
	var kept keptAccount
	if err == nil {
		if kept, err = parseAccount(text, time.Now()); err != nil {
			err = fmt.Errorf("%s: %w", file, err)
		}
	}
	if err != nil {
		err = fmt.Errorf("what was saved so far cannot be read, so counting begins anew: %w", err)
		a.note, a.changed = err.Error(), true
		return a, err
	}
	a.history.since, a.history.days, a.history.quarters = kept.Since, kept.Days, kept.Quarters
	if u := kept.LastUpdate; u != nil {
		a.updates = updates{last: *u, began: u.Start, seen: u.End}
	}
	for _, s := range kept.Peers {
		a.shares.peers[s.Name] = &s
	}
	for _, s := range kept.Names {
		a.shares.names[s.Name] = &s
	}
	for i := len(kept.Requests) - 1; i >= 0; i-- {
		a.requests.latest = append(a.requests.latest, kept.Requests[i])
	}
	for _, m := range kept.Missed {
		if hp, err := store.ParseHashPart(m.HashPart); err == nil {
			a.missed.add(hp, missCheck{at: m.At, tried: min(max(m.Tried, 0), missTries-1)})
		}
	}
	return a, nil
}

// parseAccount reads what Save writes. It leaves out times later than tomorrow, which come from a wrong clock.
func parseAccount(text []byte, now time.Time) (a keptAccount, err error) {
	d := json.NewDecoder(bytes.NewReader(text))
	if err := d.Decode(&a); err != nil {
		return a, err
	}
	if _, err := d.Token(); err != io.EOF {
		return a, errors.New("something follows its end")
	}
	if a.Schema != accountSchema {
		return a, fmt.Errorf("it has schema %d, and this narbor knows %d", a.Schema, accountSchema)
	}
	if len(a.Missed) > maxMissChecks {
		return a, errors.New("it has more misses than narbor writes")
	}
	if len(a.Days) > maxDays || len(a.Quarters) > quarters || len(a.Peers) > maxPeers || len(a.Names) > maxNames ||
		len(a.Requests) > maxRequests {
		return a, errors.New("it has more entries than narbor writes")
	}
	if u := a.LastUpdate; u != nil && (!u.sane() || len(u.From) > maxFrom) {
		return a, errors.New("the last update has amounts that narbor does not write")
	} else if u != nil && u.Start.After(now) {
		a.LastUpdate = nil
	}
	last, days := "", a.Days
	a.Days = nil
	for _, day := range days {
		if _, err := time.Parse(time.DateOnly, day.Date); err != nil {
			return a, err
		}
		if day.Date <= last || !day.sane() {
			return a, fmt.Errorf("the day %s is out of order, or has negative amounts", day.Date)
		}
		if last = day.Date; last <= now.AddDate(0, 0, 1).Format(time.DateOnly) {
			a.Days = append(a.Days, day)
		}
	}
	var begun []Quarter
	for _, q := range a.Quarters {
		if !q.sane() {
			return a, fmt.Errorf("the quarter of an hour of %s has negative amounts", q.Start)
		}
		if q.Start.Before(now) && (len(begun) == 0 || begun[len(begun)-1].Start.Before(q.Start)) {
			begun = append(begun, q)
		}
	}
	a.Quarters = begun
	return a, nil
}

// sane says whether amounts are such as could have been counted.
func (a Amounts) sane() bool {
	for _, n := range a.Received {
		if n < 0 {
			return false
		}
	}
	return a.ByNix >= 0 && a.ByNixPaths >= 0 && a.Sent >= 0 && a.NARs >= 0 && a.Found >= 0 && a.Missed >= 0 && a.Seconds >= 0 &&
		a.SavedSeconds >= 0
}

// Save writes the file if something has changed: beside it, and renamed, so that it is whole whenever the power goes.
func (a *Accounts) Save() error {
	a.mu.Lock()
	due := a.changed && a.file != ""
	a.changed = false
	account := a.booked(time.Now())
	a.mu.Unlock()
	if !due {
		return nil
	}
	text, err := json.Marshal(keptAccount{account, a.missed.pending()})
	if err == nil {
		err = statefile.Replace(a.file, text, 0o600)
	}
	if err != nil {
		a.mu.Lock()
		a.changed = true
		a.mu.Unlock()
		return fmt.Errorf("what was saved so far will not outlast this run: %w", err)
	}
	return nil
}

// Note returns the error of the file, or "".
func (a *Accounts) Note() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.note
}
