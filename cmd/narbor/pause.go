package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"narbor/store/statefile"
)

// pauseStep is the time between two checks whether a pause has ended. Its end is a time of day, and timers stand still
// while the machine sleeps.
const pauseStep = 30 * time.Second

// maxPauseFile bounds the file of a pause; a real one has about 60 bytes.
const maxPauseFile = 1 << 10

// A pause is when sharing goes on again by itself, if it is to. It is kept in a file, so that it lasts across restarts.
type pause struct {
	file string

	mu    sync.Mutex // guards the rest
	base  bool       // whether there is sharing when the pause is over
	timer *time.Timer
	until time.Time
}

type keptPause struct {
	Until time.Time `json:"until"`
}

// open reads the pause that an earlier run has left, and says whether it goes on. base is whether there is sharing
// without a pause. The caller shares nothing until it has called [pause.resume].
func (p *pause) open(file string, base bool) (paused bool, err error) {
	p.file, p.base = file, base
	text, _, err := statefile.ReadText(file, maxPauseFile)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	var kept keptPause
	if err == nil {
		if err = json.Unmarshal(text, &kept); err != nil {
			err = fmt.Errorf("%s: %w", file, err)
		}
	}
	if err != nil { // sharing was paused, until an unknown time
		kept.Until = time.Now().Add(time.Hour)
		err = fmt.Errorf("the end of a pause cannot be read, so it is in an hour: %w", err)
	}
	if left := time.Until(kept.Until); left <= 0 {
		return false, p.keep(time.Time{})
	} else if left > maxPause { // by a clock that was wrong
		kept.Until = time.Now().Add(maxPause)
	}
	p.until = kept.Until
	return true, err
}

// resume sees to it that the pause that open has found ends.
func (p *pause) resume(share func(on bool)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.until.IsZero() {
		p.await(share)
	}
}

// set turns sharing on or off, and if d is not 0, off for that long, unless set is called again before. An error says
// that the pause is in force, and not kept.
func (p *pause) set(on bool, d time.Duration, share func(on bool)) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.timer != nil {
		p.timer.Stop()
	}
	p.timer, p.until = nil, time.Time{}
	p.base = p.base || on
	share(on)
	if d > 0 {
		p.until = time.Now().Add(d).Round(0) // a time of day
		p.await(share)
	}
	return p.keep(p.until)
}

// await ends the pause when its time has come. The caller holds mu.
func (p *pause) await(share func(on bool)) {
	var t *time.Timer
	t = time.AfterFunc(min(time.Until(p.until), pauseStep), func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		switch {
		case p.timer != t: // another call of set came at that very moment
		case time.Now().Before(p.until):
			p.await(share)
		default:
			p.timer, p.until = nil, time.Time{}
			share(p.base)
			_ = p.keep(p.until) // what stays is over, and the next start sees that
		}
	})
	p.timer = t
}

// keep writes the file, or removes it if there is no pause with an end.
func (p *pause) keep(until time.Time) error {
	if until.IsZero() {
		if err := os.Remove(p.file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("a pause that is over may come back at the next start: %w", err)
		}
		return nil
	}
	text, err := json.Marshal(keptPause{until})
	if err == nil {
		err = statefile.Replace(p.file, text, 0o600)
	}
	if err != nil {
		return fmt.Errorf("sharing is paused, but not beyond a restart: %w", err)
	}
	return nil
}

// end is when sharing goes on by itself; nil is never.
func (p *pause) end() *time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.until.IsZero() || !time.Now().Before(p.until) {
		return nil
	}
	until := p.until
	return &until
}

// maxPause bounds `narbor share pause --for`; --share none is for longer.
const maxPause = 30 * 24 * time.Hour
