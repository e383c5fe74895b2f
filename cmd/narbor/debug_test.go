package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"narbor/cmd/narbor/exit"
)

func TestDebugLooksIntoTheRunningNarbor(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "s.sock")
	startedAt(t, socket, "--state-dir", dir)
	out, _, err := narbor(t.Context(), "debug", "goroutines", "--socket", socket)
	if err != nil || !strings.Contains(out, "p2p.(*Node).Run") {
		t.Errorf("goroutines: %v\n%s", err, out)
	}
	for _, args := range [][]string{{"--heap"}, {"--for", "200ms"}} {
		file := filepath.Join(dir, "narbor.pprof")
		_, _, err := narbor(t.Context(), append([]string{"debug", "profile", "--socket", socket, file}, args...)...)
		text, _ := os.ReadFile(file)
		if err != nil || !strings.HasPrefix(string(text), "\x1f\x8b") { // gzip, as pprof writes it
			t.Errorf("profile %q: %v, begins with %q", args, err, text[:min(4, len(text))])
		}
	}
	for _, c := range []struct {
		args []string
		code int
	}{
		{[]string{"log", "debug"}, 0}, {[]string{"log", "p2p=warn"}, 0}, {[]string{"log", "p2p=off"}, 0},
		{[]string{"log", "loud"}, exit.Usage}, {[]string{"log", "off"}, exit.Usage},
		{[]string{"log", "panic"}, exit.Usage},
		{[]string{"log", "mdns=debug"}, exit.Usage}, {[]string{"log", "p2p="}, exit.Usage},
		{[]string{"log"}, exit.Usage},
		{[]string{"profile"}, exit.Usage}, {[]string{"profile", filepath.Join(dir, "x"), "--for", "2m"}, exit.Usage},
	} {
		_, errs, err := narbor(t.Context(), append(append([]string{"debug"}, c.args...), "--socket", socket)...)
		if exit.Code(err) != c.code {
			t.Errorf("debug %q ends with %d, want %d: %v %s", c.args, exit.Code(err), c.code, err, errs)
		}
	}
}

// TestBadLevelsAreFoundByTheConfigCheck has levels of zap that are not narbor's.
func TestBadLevelsAreFoundByTheConfigCheck(t *testing.T) {
	for _, level := range []string{"fatal", "panic", "p2p=debug"} {
		wantCode(t, exit.Usage, "config", "check", writeConfig(t, `{"log-level": "`+level+`"}`))
	}
	wantCode(t, 0, "config", "check", writeConfig(t, `{"log-level": ""}`))
}

func TestLevelsOfTheLog(t *testing.T) {
	l := logs{level: zap.NewAtomicLevelAt(zapcore.InfoLevel), libp2pLevel: zap.NewAtomicLevelAt(noMessages)}
	for _, c := range []struct {
		text        string
		own, libp2p zapcore.Level
	}{
		{"warn", zapcore.WarnLevel, noMessages},
		{"p2p=debug", zapcore.WarnLevel, zapcore.DebugLevel},
		{"error", zapcore.ErrorLevel, zapcore.DebugLevel},
		{"p2p=off", zapcore.ErrorLevel, noMessages},
	} {
		if err := l.set(c.text); err != nil || l.level.Level() != c.own || l.libp2pLevel.Level() != c.libp2p {
			t.Errorf("set(%q) = %v, levels %v and %v", c.text, err, l.level, l.libp2pLevel)
		}
	}
}

// TestLibp2pSpeaksOnlyIfAsked dials an address that refuses.
func TestLibp2pSpeaksOnlyIfAsked(t *testing.T) {
	for level, want := range map[string]bool{"p2p=debug": true, "p2p=off": false} {
		cmd := exec.Command(os.Args[0], "fetch", "--no-mdns", "--peer", "127.0.0.1:1", "--log", level, "--to", t.TempDir(),
			strings.Repeat("0", 32))
		cmd.Env = append(os.Environ(), "NARBOR_TEST_IS_NARBOR=1")
		out, _ := cmd.CombinedOutput() // it finds nothing, and fails
		if got := strings.Contains(string(out), "libp2p"); got != want {
			t.Errorf("with --log %s, messages of libp2p: %v, want %v:\n%s", level, got, want, out)
		}
	}
}
