package gitstore_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"narbor/store"
	"narbor/store/gitstore"
)

// has fails the test unless of these texts, each the only file of a tree, exactly those wanted are shared.
func (r running) has(t *testing.T, want map[string]bool) {
	t.Helper()
	for text, want := range want {
		_, err := r.Info(t.Context(), infoOf([]byte(narOf(text))).Path.HashPart())
		if err == nil != want || err != nil && !errors.Is(err, store.ErrNotFound) {
			t.Errorf("tree with the file %q: %v, want it shared: %v", text, err, want)
		}
	}
}

// single is a tree with one file of that text.
func (r repo) single(text string) string { return r.tree("100644 blob " + r.blob(text) + "\ta") }

// A file refs/heads/x.lock has the ID of a commit before git has decided whether the ref moves there.
func TestLocksAreNoRefs(t *testing.T) {
	r := newRepo(t)
	r.commit("refs/heads/main", r.single("main"))
	locked := r.rawCommit(r.single("locked"))
	must(t, os.WriteFile(filepath.Join(r.dir, "refs/heads/main.lock"), []byte(locked+"\n"), 0o600))
	s := run(t, gitstore.Config{Dir: r.dir})
	s.next(t)
	s.has(t, map[string]bool{"main": true, "locked": false})
}

func TestRefToWhatIsMissingEndsNothing(t *testing.T) {
	r := newRepo(t)
	r.commit("refs/heads/main", r.single("main"))
	must(t, os.WriteFile(filepath.Join(r.dir, "refs/heads/ahead"), []byte(strings.Repeat("1", 40)+"\n"), 0o600))
	s := run(t, gitstore.Config{Dir: r.dir})
	s.next(t)
	s.has(t, map[string]bool{"main": true})
}

func TestStateDirectoryMayBeRelative(t *testing.T) {
	r := newRepo(t)
	r.commit("refs/heads/main", r.single("main"))
	t.Chdir(t.TempDir())
	s := run(t, gitstore.Config{Dir: r.dir, State: "state"})
	s.next(t)
	s.has(t, map[string]bool{"main": true})
}

// A working copy may have folders that look like a repository.
func TestWorkingCopyWithAFolderOfObjects(t *testing.T) {
	r := newRepo(t)
	r.commit("refs/heads/main", r.single("main"))
	dir := t.TempDir()
	must(t, os.Rename(r.dir, filepath.Join(dir, ".git")))
	must(t, errors.Join(os.Mkdir(filepath.Join(dir, "objects"), 0o700), os.MkdirAll(filepath.Join(dir, "refs/heads"), 0o700)))
	s := run(t, gitstore.Config{Dir: dir})
	s.next(t)
	s.has(t, map[string]bool{"main": true})
}

// Objects that were missing may have come when the refs move the next time.
func TestDamagedTreesAreLookedAtAgain(t *testing.T) {
	r := newRepo(t)
	blob := r.blob("late")
	tree := r.tree("100644 blob " + blob + "\ta")
	r.commit("refs/heads/main", tree)
	file := filepath.Join(r.dir, "objects", blob[:2], blob[2:])
	must(t, os.Rename(file, file+".away"))
	s := run(t, gitstore.Config{Dir: r.dir, Every: time.Millisecond})
	if st := s.next(t); st.Refused != 1 {
		t.Fatalf("status = %+v, want the tree refused", st)
	}
	must(t, os.Rename(file+".away", file))
	r.commit("refs/heads/other", r.single("other"))
	s.next(t)
	s.has(t, map[string]bool{"late": true, "other": true})
}
