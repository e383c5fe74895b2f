package narserve

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"time"

	"go.uber.org/zap"

	"narbor/store"
	"narbor/trust"
)

const (
	// maxAccountsFile is far above what accounts take as JSON with every bound reached, some 1.3 MiB.
	maxAccountsFile = 4 << 20
	// saveEvery is how much of the accounts a loss of power can cost.
	saveEvery = 5 * time.Minute
	// maxMissChecks bounds the misses with an unknown outcome: more than a desktop system has paths.
	maxMissChecks = 8192
	// missCheckEvery and missChecksAtOnce bound what it costs to find out: a question to the own store each.
	missCheckEvery, missChecksAtOnce = 15 * time.Second, 256
)

// missCheckAfter returns how long after a miss the tried-th check runs, of whether Nix has got the path elsewhere. A large
// closure takes an hour on a slow link; Nix only asked about a path that is still absent then.
func missCheckAfter(tried int) time.Duration {
	return []time.Duration{time.Minute, 10 * time.Minute, time.Hour, math.MaxInt64}[tried]
}

// missTries is how often it is looked.
const missTries = 3

// A missCheck is a path that Nix asked for and did not get.
type missCheck struct {
	at    time.Time
	tried int
}

// A keptAccount is the content of the file: the accounts, and the misses that [Server.Run] has not looked for yet, so that
// paths that Nix fetched elsewhere just before a restart are counted after it.
type keptAccount struct {
	Account
	Missed []keptMiss `json:"missed,omitempty"`
}

type keptMiss struct {
	HashPart string    `json:"hashPart"`
	At       time.Time `json:"at"`
	Tried    int       `json:"tried"`
}

// OpenAccounts returns accounts that are kept in a file, with the file's content. If the file cannot be read as a whole
// it is not used at all: the error says so, and the accounts are empty, but can be used.
func OpenAccounts(file string) (*Accounts, error) {
	a := NewAccounts()
	a.file = file
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return a, nil
	}
	var text []byte
	if err == nil {
		defer f.Close()
		text, err = io.ReadAll(io.LimitReader(f, maxAccountsFile+1))
	}
	var kept keptAccount
	if err == nil {
		kept, err = parseAccount(text, time.Now())
	}
	if err != nil {
		err = fmt.Errorf("what was saved so far cannot be read, so counting begins anew: %s: %w", file, err)
		a.note, a.changed = err.Error(), true
		return a, err
	}
	a.since, a.days, a.quarters = kept.Since, kept.Days, kept.Quarters
	for _, s := range kept.Peers {
		a.peers[s.Name] = &s
	}
	for _, s := range kept.Names {
		a.names[s.Name] = &s
	}
	for i := len(kept.Requests) - 1; i >= 0; i-- {
		a.requests = append(a.requests, kept.Requests[i])
	}
	for _, m := range kept.Missed {
		if hp, err := store.ParseHashPart(m.HashPart); err == nil {
			a.missed.Add(hp, missCheck{at: m.At, tried: min(max(m.Tried, 0), missTries-1)})
			a.wake()
		}
	}
	return a, nil
}

// parseAccount reads what Save writes. It leaves out times later than tomorrow, which come from a wrong clock.
func parseAccount(text []byte, now time.Time) (a keptAccount, err error) {
	if len(text) > maxAccountsFile {
		return a, fmt.Errorf("it is longer than %d bytes", maxAccountsFile)
	}
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
	a.mu.Unlock()
	if !due {
		return nil
	}
	account := keptAccount{Account: a.Account(), Missed: a.pending()}
	account.Now, account.Note = nil, ""
	text, err := json.Marshal(account)
	if err == nil {
		err = store.ReplaceFile(a.file, text)
	}
	if err != nil {
		a.mu.Lock()
		a.changed = true
		a.mu.Unlock()
		return fmt.Errorf("what was saved so far will not outlast this run: %w", err)
	}
	return nil
}

// miss adds a path that Nix did not get here to those that [Server.Run] looks for later.
func (a *Accounts) miss(hp store.HashPart, now time.Time) {
	a.missed.Add(hp, missCheck{at: now})
	a.wake()
}

// wake has [Server.Run] check the missed paths.
func (a *Accounts) wake() {
	select {
	case a.missing <- struct{}{}:
	default:
	}
}

// pending returns the misses with an unknown outcome, the oldest first.
func (a *Accounts) pending() (list []keptMiss) {
	for _, hp := range a.missed.Keys() {
		if c, ok := a.missed.Peek(hp); ok {
			list = append(list, keptMiss{string(hp), c.at, c.tried})
		}
	}
	return list
}

// due returns paths that Nix missed a while ago, to be looked for.
func (a *Accounts) due(now time.Time) (paths []store.HashPart) {
	for _, hp := range a.missed.Keys() { // the oldest first
		if c, ok := a.missed.Peek(hp); ok && now.Sub(c.at) >= missCheckAfter(c.tried) {
			paths = append(paths, hp)
		}
		if len(paths) == missChecksAtOnce {
			break
		}
	}
	return paths
}

// looked records whether a path that Nix missed is in its store now; size is 0 if it is not.
func (a *Accounts) looked(hp store.HashPart, size int64) {
	c, ok := a.missed.Peek(hp)
	if !ok {
		return
	}
	if c.tried++; size > 0 || c.tried >= missTries {
		a.missed.Remove(hp)
	} else {
		a.missed.Add(hp, c)
	}
	if size > 0 {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.book(time.Now(), Amounts{ByNix: size, ByNixPaths: 1})
	}
}

// Run keeps the accounts until ctx ends: it saves them every few minutes and at the end, and finds out which of the missed
// paths Nix has fetched itself. It is called once.
func (s *Server) Run(ctx context.Context) error {
	save := time.NewTicker(saveEvery)
	defer save.Stop()
	var look <-chan time.Time // nil: Nix has missed nothing lately
	for {
		select {
		case <-s.accounts.missing:
			if look == nil {
				look = time.After(missCheckEvery)
			}
			continue
		case <-look:
			look = nil
			s.lookForMissed(ctx)
			if s.accounts.missed.Len() > 0 {
				look = time.After(missCheckEvery)
			}
			continue
		case <-save.C:
		case <-ctx.Done():
		}
		if err := s.accounts.Save(); err != nil {
			s.log.Warn("accounts are not saved", zap.Error(err))
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// lookForMissed asks this machine's own store for what Nix missed here: if an upstream has signed it, and it is there
// by now, Nix has fetched it from elsewhere.
func (s *Server) lookForMissed(ctx context.Context) {
	for _, hp := range s.accounts.due(time.Now()) {
		size := int64(0)
		for _, src := range s.sources {
			if l, ok := src.Source.(local); ok && size == 0 {
				if m, err := guard(func() (trust.Mapping, error) { return l.Lookup(ctx, hp) }); err == nil {
					size = m.NarSize()
				}
			}
		}
		if ctx.Err() != nil {
			return
		}
		s.accounts.looked(hp, size)
	}
}

// Note returns the error of the file, or "".
func (a *Accounts) Note() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.note
}
