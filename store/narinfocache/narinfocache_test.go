package narinfocache_test

import (
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"narbor/store/narinfocache"
)

const (
	ours   = "http://127.0.0.1:6272"
	theirs = "https://cache.nixos.org"
)

// newCache returns a file with the columns that matter of Nix's. Each substituter has one positive and three negative
// rows, of the seconds 100, 200 and 300. The tests of integration use real ones.
func newCache(t *testing.T, urls ...string) (file string, db *sql.DB) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "binary-cache-v6.sqlite")
	db, err := sql.Open("sqlite", file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	run := func(query string, args ...any) {
		if _, err := db.Exec(query, args...); err != nil {
			t.Fatal(err)
		}
	}
	run("create table BinaryCaches (id integer primary key, url text unique)")
	run("create table NARs (cache integer, hashPart text, timestamp integer, present integer, primary key (cache, hashPart))")
	for i, u := range urls {
		run("insert into BinaryCaches values (?, ?)", i, u)
		run("insert into NARs values (?, 'present', 100, 1)", i)
		for _, at := range []int{100, 200, 300} {
			run("insert into NARs values (?, ?, ?, 0)", i, fmt.Sprint("absent", at), at)
		}
	}
	return file, db
}

// rows returns how many rows there are about a URL.
func rows(t *testing.T, db *sql.DB, url string) (n int) {
	t.Helper()
	err := db.QueryRow("select count(*) from NARs, BinaryCaches where cache = id and url = ?", url).Scan(&n)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestForgetRemovesNegativeRowsOfTheseURLs(t *testing.T) {
	for name, c := range map[string]struct {
		urls      []string
		before    int64
		want      int64
		left, all int // rows of ours, and of theirs
	}{
		"all":             {[]string{ours}, 1000, 3, 1, 4},
		"a trailing /":    {[]string{ours + "/"}, 1000, 3, 1, 4},
		"earlier ones":    {[]string{ours}, 200, 1, 3, 4},
		"no such URL":     {[]string{"http://127.0.0.1:627"}, 1000, 0, 4, 4},
		"no URL":          {nil, 1000, 0, 4, 4},
		"both":            {[]string{ours, theirs}, 1000, 6, 1, 1},
		"none is earlier": {[]string{ours}, 100, 0, 4, 4},
	} {
		t.Run(name, func(t *testing.T) {
			file, db := newCache(t, ours, theirs)
			n, err := narinfocache.Forget(t.Context(), file, c.urls, time.Unix(c.before, 0))
			if err != nil || n != c.want {
				t.Errorf("Forget = %d, %v, want %d", n, err, c.want)
			}
			if got, other := rows(t, db, ours), rows(t, db, theirs); got != c.left || other != c.all {
				t.Errorf("%d rows of ours and %d of theirs are left, want %d and %d", got, other, c.left, c.all)
			}
		})
	}
}

// Nix locks the file for a moment when it adds a row.
func TestForgetWaitsForTheLock(t *testing.T) {
	file, db := newCache(t, ours)
	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec("insert into NARs values (0, 'other', 100, 0)"); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(200*time.Millisecond, func() { tx.Commit() })
	if n, err := narinfocache.Forget(t.Context(), file, []string{ours}, time.Unix(1000, 0)); n != 4 || err != nil {
		t.Errorf("Forget = %d, %v, want 4 rows, with the one that was added meanwhile", n, err)
	}
}

func TestForgetRefusesOtherFiles(t *testing.T) {
	file, db := newCache(t, ours)
	if _, err := db.Exec("alter table BinaryCaches rename to Other"); err != nil {
		t.Fatal(err)
	}
	noise := filepath.Join(t.TempDir(), "binary-cache-v6.sqlite")
	if err := os.WriteFile(noise, []byte("this is no database, however long it may be"), 0o600); err != nil {
		t.Fatal(err)
	}
	absent := filepath.Join(t.TempDir(), "a?b#c%d.sqlite")
	for name, file := range map[string]string{"another version": file, "noise": noise, "absent": absent} {
		if n, err := narinfocache.Forget(t.Context(), file, []string{ours}, time.Now()); err == nil {
			t.Errorf("%s: Forget = %d, want an error", name, n)
		}
	}
	if _, err := os.Stat(absent); err == nil {
		t.Error("a file was created")
	}
}

func TestFilesAreThoseOfAllVersionsOfNix(t *testing.T) {
	dir := t.TempDir()
	var want []string
	for name, is := range map[string]bool{"binary-cache-v6.sqlite": true, "binary-cache-v10.sqlite": true,
		"binary-cache-v6.sqlite-journal": false,
		"binary-cache-vx.sqlite":         false, "fetcher-cache-v2.sqlite": false} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if is {
			want = append(want, filepath.Join(dir, name))
		}
	}
	slices.Sort(want)
	if got, err := narinfocache.Files(dir); err != nil || !slices.Equal(got, want) {
		t.Errorf("Files = %q, %v, want %q", got, err, want)
	}
	if got, err := narinfocache.Files(filepath.Join(dir, "absent")); err != nil || got != nil {
		t.Errorf("Files of no folder = %q, %v", got, err)
	}
}

// SQLite would wait for the other end of a FIFO, and a link may lead anywhere.
func TestFilesRefusesWhatIsNoRegularFile(t *testing.T) {
	for _, name := range []string{"", "-journal", "-wal", "-shm"} {
		file, _ := newCache(t)
		if name == "" {
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
		}
		if err := syscall.Mkfifo(file+name, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := narinfocache.Files(filepath.Dir(file)); err == nil {
			t.Errorf("Files with a FIFO in place of %s = %q, want an error", file+name, got)
		}
		if err := errors.Join(os.Remove(file+name), os.Symlink(filepath.Join(t.TempDir(), "other"), file+name)); err != nil {
			t.Fatal(err)
		}
		if got, err := narinfocache.Files(filepath.Dir(file)); err == nil {
			t.Errorf("Files with a link in place of %s = %q, want an error", file+name, got)
		}
	}
	fifo := filepath.Join(t.TempDir(), "nix")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := narinfocache.Files(fifo); err == nil {
		t.Errorf("Files of a FIFO = %q, want an error", got)
	}
}

func TestFilesOfRootRefusesFilesOfUsers(t *testing.T) {
	file, _ := newCache(t)
	dir := filepath.Dir(file)
	if os.Geteuid() != 0 {
		if got, err := narinfocache.FilesOfRoot(dir); err == nil {
			t.Errorf("FilesOfRoot of a user's folder = %q, want an error", got)
		}
		t.Skip("needs root for files of root")
	}
	journal, link := file+"-journal", filepath.Join(t.TempDir(), "link")
	if err := errors.Join(os.WriteFile(journal, nil, 0o600), os.Symlink(dir, link)); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{dir, link} {
		if got, err := narinfocache.FilesOfRoot(dir); err != nil || !slices.Equal(got, []string{file}) {
			t.Errorf("FilesOfRoot(%s) = %q, %v, want %s", dir, got, err, file)
		}
	}
	for _, theirs := range []string{file, journal, dir, filepath.Dir(dir)} {
		if err := os.Chown(theirs, 65534, 65534); err != nil {
			t.Fatal(err)
		}
		for _, dir := range []string{dir, link} {
			if got, err := narinfocache.FilesOfRoot(dir); err == nil {
				t.Errorf("FilesOfRoot(%s) = %q though %s belongs to a user, want an error", dir, got, theirs)
			}
		}
		if got, err := narinfocache.Files(dir); err != nil || len(got) != 1 {
			t.Errorf("Files = %q, %v, want the file of a user", got, err)
		}
		if err := os.Chown(theirs, 0, 0); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := narinfocache.FilesOfRoot(filepath.Join(dir, "absent")); err != nil || got != nil {
		t.Errorf("FilesOfRoot of no folder = %q, %v", got, err)
	}
}

func TestForgetTakesAnyName(t *testing.T) {
	t.Chdir(t.TempDir())
	const dir = "a folder?x=y#z 100%25"
	file, db := newCache(t, ours)
	if err := errors.Join(db.Close(), os.Mkdir(dir, 0o700), os.Rename(file, filepath.Join(dir, filepath.Base(file)))); err != nil {
		t.Fatal(err)
	}
	files, err := narinfocache.Files(dir)
	if err != nil || len(files) != 1 {
		t.Fatalf("Files = %q, %v, want one", files, err)
	}
	if n, err := narinfocache.Forget(t.Context(), files[0], []string{ours}, time.Unix(1000, 0)); n != 3 || err != nil {
		t.Errorf("Forget(%s) = %d, %v, want 3 rows", files[0], n, err)
	}
}

func TestDirIsWhereNixLooks(t *testing.T) {
	t.Setenv("NIX_CACHE_HOME", "")
	t.Setenv("XDG_CACHE_HOME", "")
	if got, want := narinfocache.Dir("/home/a"), "/home/a/.cache/nix"; got != want {
		t.Errorf("Dir = %q, want %q", got, want)
	}
	t.Setenv("XDG_CACHE_HOME", "/cache")
	if got, want := narinfocache.Dir("/home/a"), "/cache/nix"; got != want {
		t.Errorf("Dir with XDG_CACHE_HOME = %q, want %q", got, want)
	}
	t.Setenv("NIX_CACHE_HOME", "/nixcache")
	if got, want := narinfocache.Dir("/home/a"), "/nixcache"; got != want {
		t.Errorf("Dir with NIX_CACHE_HOME = %q, want %q", got, want)
	}
}
