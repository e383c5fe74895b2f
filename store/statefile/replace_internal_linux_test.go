package statefile

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"narbor/store/storetest"

	"time"

	"golang.org/x/sys/unix"
)

// replaceText replaces the text of a file that is there.
func replaceText(t *testing.T, r replacer, file, text string) error {
	t.Helper()
	st, err := os.Lstat(file)
	if err != nil {
		t.Fatal(err)
	}
	return r.rewrite(file, []byte(text), st)
}

func TestReplaceKeepsModeAndOwner(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	for _, mode := range []os.FileMode{0o600, 0o644, 0o640} {
		storetest.WriteText(t, file, "old")
		uid, gid := os.Getuid(), os.Getgid()
		if uid == 0 {
			uid, gid = 1234, 4321
		}
		if err := errors.Join(os.Chown(file, uid, gid), os.Chmod(file, mode)); err != nil {
			t.Fatal(err)
		}
		attribute := unix.Setxattr(file, "user.note", []byte("x"), 0)
		if err := replaceText(t, newReplacer(), file, "new"); err != nil {
			t.Fatal(err)
		}
		st, err := os.Lstat(file)
		if err != nil {
			t.Fatal(err)
		}
		owner := st.Sys().(*syscall.Stat_t)
		if text := storetest.ReadText(t, file); text != "new" || st.Mode() != mode || int(owner.Uid) != uid || int(owner.Gid) != gid {
			t.Errorf("replaced: %q, mode %v, owner %d:%d, want new, %v, %d:%d", text, st.Mode(), owner.Uid, owner.Gid, mode, uid, gid)
		}
		if n, err := unix.Getxattr(file, "user.note", make([]byte, 8)); attribute == nil && (err != nil || n != 1) {
			t.Errorf("the extended attribute is lost: %v", err)
		}
	}
}

func TestReplaceRefusesHardLinksAndChangedFiles(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "f")
	storetest.WriteText(t, file, "old")
	st, err := os.Lstat(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(file, time.Time{}, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if err := newReplacer().rewrite(file, []byte("new"), st); err == nil || !strings.Contains(err.Error(), "try again") {
		t.Errorf("replace of a file that has changed = %v", err)
	}
	if err := os.Link(file, filepath.Join(dir, "g")); err != nil {
		t.Fatal(err)
	}
	if err := replaceText(t, newReplacer(), file, "new"); err == nil || !strings.Contains(err.Error(), "hard links") {
		t.Errorf("replace of a file with two names = %v", err)
	}
	if got := storetest.ReadText(t, file); got != "old" {
		t.Errorf("the file is %q, want it as it was", got)
	}
}

func TestReplaceSyncsFileThenRenamesThenSyncsDirectory(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "f")
	storetest.WriteText(t, file, "old")
	var steps []string
	r := replacer{
		sync: func(f *os.File) error {
			step := "sync file"
			if f.Name() == dir {
				step = "sync directory"
			}
			steps = append(steps, step)
			return f.Sync()
		},
		rename: func(from, to string) error {
			steps = append(steps, "rename")
			return os.Rename(from, to)
		},
	}
	if err := replaceText(t, r, file, "new"); err != nil {
		t.Fatal(err)
	}
	if want := []string{"sync file", "rename", "sync directory"}; !slices.Equal(steps, want) {
		t.Errorf("steps are %q, want %q", steps, want)
	}
}

func TestFailedWriteLeavesOldFile(t *testing.T) {
	failed := errors.New("no space left")
	for name, r := range map[string]replacer{
		"sync":   {sync: func(*os.File) error { return failed }, rename: os.Rename},
		"rename": {sync: (*os.File).Sync, rename: func(string, string) error { return failed }},
	} {
		dir := t.TempDir()
		file := filepath.Join(dir, "f")
		storetest.WriteText(t, file, "old")
		if err := replaceText(t, r, file, "new"); !errors.Is(err, failed) {
			t.Errorf("%s fails: replace = %v", name, err)
		}
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) != 1 || storetest.ReadText(t, file) != "old" {
			t.Errorf("%s fails: the directory has %v, the file is %q, want the old file alone", name, entries, storetest.ReadText(t, file))
		}
	}
}

// A process that is killed between write and rename leaves the old file, and the next one removes the temporary file.
func TestCrashBeforeRenameLeavesOldFile(t *testing.T) {
	if file := os.Getenv("NARBOR_TEST_CRASH"); file != "" {
		r := newReplacer()
		r.rename = func(string, string) error { return syscall.Kill(os.Getpid(), syscall.SIGKILL) }
		t.Fatal(replaceText(t, r, file, "new"))
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "f")
	storetest.WriteText(t, file, "old")
	cmd := exec.Command(os.Args[0], "-test.run=^TestCrashBeforeRenameLeavesOldFile$")
	cmd.Env = append(os.Environ(), "NARBOR_TEST_CRASH="+file)
	out, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the process was not killed: %v\n%s", err, out)
	}
	left, err := filepath.Glob(filepath.Join(dir, tempPattern))
	if err != nil || len(left) != 1 || storetest.ReadText(t, file) != "old" {
		t.Fatalf("after the crash: %q, %v, the file is %q", left, err, storetest.ReadText(t, file))
	}
	own := filepath.Join(dir, ".narbor-notes") // of the user's
	storetest.WriteText(t, own, "notes")
	for _, name := range []string{left[0], own} {
		if err := os.Chtimes(name, time.Time{}, time.Now().Add(-2*tempAge)); err != nil {
			t.Fatal(err)
		}
	}
	if err := replaceText(t, newReplacer(), file, "new"); err != nil {
		t.Fatal(err)
	}
	left, _ = filepath.Glob(filepath.Join(dir, tempPattern))
	if text := storetest.ReadText(t, file); !slices.Equal(left, []string{own}) || text != "new" {
		t.Errorf("after the next write: %q, the file is %q", left, text)
	}
}
