package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// TestPauseOutlastsARestart pauses a real narbor, ends it and starts another in the same state directory.
func TestPauseOutlastsARestart(t *testing.T) {
	state := t.TempDir()
	for _, c := range []struct {
		name    string
		command []string
		sharing string // after the next start
	}{
		{"pause with an end", []string{"pause", "--for", "1h"}, "none"},
		{"resume", []string{"resume"}, "signed"},
		{"pause without an end", []string{"pause"}, "signed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			socket := filepath.Join(t.TempDir(), "s.sock")
			startedAt(t, socket, "--state-dir", state)
			if out, errs, err := narbor(t.Context(), append([]string{"share", "--socket", socket}, c.command...)...); err != nil {
				t.Fatal(out, errs, err)
			}
		})
		t.Run(c.name+", then a restart", func(t *testing.T) {
			socket := filepath.Join(t.TempDir(), "s.sock")
			startedAt(t, socket, "--state-dir", state)
			var st ShareStatus
			out, _, err := narbor(t.Context(), "share", "--json", "--socket", socket)
			if err := errors.Join(err, json.Unmarshal([]byte(out), &st)); err != nil {
				t.Fatal(err)
			}
			if st.Sharing != c.sharing || (st.PausedUntil != nil) != (c.sharing == "none") {
				t.Errorf("sharing is %s until %v, want %s", st.Sharing, st.PausedUntil, c.sharing)
			}
		})
	}
}

// TestPauseEndsAcrossRestarts has runs of a program, each with a pause of its own.
func TestPauseEndsAcrossRestarts(t *testing.T) {
	for _, base := range []bool{true, false} { // --share signed and none
		synctest.Test(t, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "pause.json")
			var sharing atomic.Bool
			sharing.Store(base)
			share := func(on bool) { sharing.Store(on) }
			var first, second, third pause
			if paused, err := first.open(file, base); paused || err != nil {
				t.Fatalf("open without a file = %v, %v", paused, err)
			}
			if err := first.set(false, time.Hour, share); err != nil || sharing.Load() {
				t.Fatalf("set = %v, sharing is %v", err, sharing.Load())
			}
			first.timer.Stop() // the run ends
			time.Sleep(40 * time.Minute)
			paused, err := second.open(file, base)
			if end := second.end(); !paused || err != nil || end == nil || time.Until(*end) != 20*time.Minute {
				t.Fatalf("open after 40 of 60 minutes = %v, %v, until %v", paused, err, end)
			}
			second.resume(share)
			time.Sleep(19 * time.Minute)
			if sharing.Load() {
				t.Error("shares a minute before the end")
			}
			time.Sleep(time.Minute)
			synctest.Wait()
			if sharing.Load() != base || second.end() != nil {
				t.Errorf("sharing is %v after the end, want %v", sharing.Load(), base)
			}
			if paused, err := third.open(file, base); paused || err != nil {
				t.Errorf("open after the end = %v, %v", paused, err)
			}
		})
	}
}

// TestUnreadablePauseStillPauses has files that no narbor has written, one of a wrong clock, and a pipe.
func TestUnreadablePauseStillPauses(t *testing.T) {
	for text, most := range map[string]time.Duration{"": time.Hour, "{": time.Hour, `{"until":"2999-01-01T00:00:00Z"}`: maxPause,
		`{"until":"2000-01-01T00:00:00Z"}` + strings.Repeat(" ", maxPauseFile): time.Hour} {
		file := filepath.Join(t.TempDir(), "pause.json")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		var p pause
		paused, err := p.open(file, true)
		end := p.end()
		if !paused || (err != nil) != (most == time.Hour) || end == nil || time.Until(*end) > most {
			t.Errorf("open(%q) = %v, %v, until %v; want a pause of at most %v", text, paused, err, end, most)
		}
	}
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	var p pause
	if paused, err := p.open(pipe, true); !paused || err == nil {
		t.Errorf("open of a pipe = %v, %v, want a pause", paused, err)
	}
}
