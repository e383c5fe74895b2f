package nixconf

import (
	"context"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// Where the kernel does not tell of changes, the files are looked at.
func TestWatchNixSettingsLooks(t *testing.T) {
	dir := ownConf(t)
	blind := func(context.Context, []string) <-chan struct{} { return nil }
	well(t, os.WriteFile(dir+"/nix.conf", []byte("!include a\n"), 0o644))
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var calls []Settings
		var errs []error
		done := make(chan error)
		go func() {
			done <- watchWith(ctx, blind, func(s Settings, err error) {
				calls, errs = append(calls, s), append(errs, err)
			})
		}()
		step := func(what, text string, want int) {
			t.Helper()
			well(t, os.WriteFile(dir+"/a", []byte(text), 0o644))
			time.Sleep(10 * time.Second)
			synctest.Wait()
			if len(calls) != want {
				t.Fatalf("%s: %d calls %+v, want %d", what, len(calls), calls, want)
			}
		}
		time.Sleep(65 * time.Second) // never change a file at the moment when it is read
		step("a file that says nothing new", "require-sigs = true\n", 0)
		step("a file that does", "require-sigs = false\n", 1)
		step("same size", "require-sigs = 0    \n", 1)
		step("other value of the same size", "require-sigs = true \n", 2)
		step("broken", "require-sigs\n", 3)
		step("still broken", "require-sigs \n", 3)
		step("repaired", "substituters =\n", 4)
		if errs[0] != nil || errs[1] != nil || errs[2] == nil || errs[3] != nil {
			t.Errorf("errors %v, want one, the third", errs)
		}
		if calls[0].RequireSigs || !calls[1].RequireSigs || len(calls[3].Substituters) != 0 {
			t.Errorf("settings %+v", calls)
		}
		cancel()
		if err := <-done; err != context.Canceled {
			t.Errorf("WatchNixSettings = %v, want Canceled", err)
		}
	})
}

// A change is noticed at once, wherever on the way to a file it is: on NixOS all of /etc changes by one symbolic link.
func TestWatchNixSettingsNoticesChanges(t *testing.T) {
	dir := ownConf(t)
	if watchFiles(t.Context(), nil) == nil {
		return // on this system files are looked at
	}
	well(t, os.WriteFile(dir+"/nix.conf", []byte("!include a\n!include later/b\n"), 0o644), os.Mkdir(dir+"/one", 0o755),
		os.Mkdir(dir+"/two", 0o755),
		os.WriteFile(dir+"/one/c", []byte("require-sigs = true\n"), 0o644), os.WriteFile(dir+"/two/c", []byte("require-sigs = 0\n"), 0o644),
		os.Symlink("one", dir+"/now"), os.Symlink("now/c", dir+"/a"))
	ctx, cancel := context.WithCancel(t.Context())
	calls, done, watching := make(chan Settings), make(chan error), make(chan struct{}, 100)
	watch := func(ctx context.Context, files []string) <-chan struct{} {
		defer func() { watching <- struct{}{} }()
		return watchFiles(ctx, files)
	}
	go func() {
		done <- watchWith(ctx, watch, func(s Settings, err error) { calls <- s })
	}()
	next := func(what string) Settings {
		t.Helper()
		select {
		case s := <-calls:
			return s
		case <-time.After(30 * time.Second): // half of the time after which it looks by itself
			t.Fatalf("%s: not noticed", what)
		}
		return Settings{}
	}
	<-watching
	well(t, os.Symlink("two", dir+"/new"), os.Rename(dir+"/new", dir+"/now"))
	if s := next("another target of a link"); s.RequireSigs {
		t.Errorf("after a link has changed: %+v", s)
	}
	well(t, os.WriteFile(dir+"/two/c", []byte("require-sigs = true\n"), 0o644))
	if s := next("another content"); !s.RequireSigs {
		t.Errorf("after a file has changed: %+v", s)
	}
	well(t, os.Mkdir(dir+"/later", 0o755), os.WriteFile(dir+"/later/b", []byte("require-sigs = false\n"), 0o644))
	if s := next("a new directory"); s.RequireSigs {
		t.Errorf("with a file more: %+v", s)
	}
	well(t, os.RemoveAll(dir+"/later"))
	if s := next("a directory that has gone"); !s.RequireSigs {
		t.Errorf("with a file less: %+v", s)
	}
	cancel()
	if err := <-done; err != context.Canceled {
		t.Errorf("WatchNixSettings = %v, want Canceled", err)
	}
}

// ownConf returns a directory for nix.conf, in an environment where there is neither another nor nix.
func ownConf(t *testing.T) string {
	dir := t.TempDir()
	for name, value := range map[string]string{"NIX_CONF_DIR": dir, "NIX_USER_CONF_FILES": "", "NIX_CONFIG": "", "PATH": dir} {
		t.Setenv(name, value)
	}
	return dir
}

func well(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}
