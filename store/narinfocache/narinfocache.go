// Package narinfocache removes negative answers from Nix's narinfo cache: Nix remembers for an hour that a substituter
// does not have a path (its setting narinfo-cache-negative-ttl), and a neighbour that has it may have come meanwhile.
//
// The cache is an SQLite file, binary-cache-v6.sqlite since Nix 2.3, v7 since 2.31, v8 since 2.35, with one row for
// each path and substituter. The Nix daemon keeps it for root, and may use it at the same time. The package keeps no
// state; its functions may be called concurrently.
package narinfocache

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	_ "modernc.org/sqlite" // the driver
)

// lockPatience is how long Nix may keep the file locked: it commits each row at once.
const lockPatience = 10 * time.Second

// Dir returns the folder in which Nix keeps its caches for a user with that home, as Nix finds it in the environment.
func Dir(home string) string {
	if dir := os.Getenv("NIX_CACHE_HOME"); dir != "" {
		return dir
	}
	return filepath.Join(cmp.Or(os.Getenv("XDG_CACHE_HOME"), filepath.Join(home, ".cache")), "nix")
}

// Files returns the narinfo caches in a folder, of all versions of Nix that have run here. There may be none. It fails
// if one of them, or a file that SQLite keeps beside it, is not a regular file: opening a FIFO could block for ever,
// and a symlink may lead to any file.
func Files(dir string) ([]string, error) {
	return files(dir, func(fs.FileInfo) bool { return true })
}

// FilesOfRoot is like Files, for root. It also fails if one of the files, the folder, or a folder above it belongs to
// another user, because that user could replace it by a symlink.
func FilesOfRoot(dir string) ([]string, error) {
	dir, err := filepath.EvalSymlinks(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for above := dir; err == nil; above = filepath.Dir(above) {
		var st fs.FileInfo
		if st, err = os.Lstat(above); err == nil && !ofRoot(st) {
			err = fmt.Errorf("%s does not belong to root", above)
		}
		if above == filepath.Dir(above) {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	return files(dir, ofRoot)
}

func ofRoot(st fs.FileInfo) bool {
	owner, ok := st.Sys().(*syscall.Stat_t)
	return ok && owner.Uid == 0
}

// files returns the narinfo caches of a folder. It fails if mine returns false for a file that SQLite would open.
func files(dir string, mine func(fs.FileInfo) bool) (caches []string, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		version, ok := strings.CutPrefix(e.Name(), "binary-cache-v")
		version, sqlite := strings.CutSuffix(version, ".sqlite")
		if _, err := strconv.ParseUint(version, 10, 16); !ok || !sqlite || err != nil {
			continue
		}
		cache := filepath.Join(dir, e.Name())
		for _, file := range []string{cache, cache + "-journal", cache + "-wal", cache + "-shm"} {
			st, err := os.Lstat(file)
			switch {
			case errors.Is(err, fs.ErrNotExist):
			case err != nil:
				return nil, err
			case !st.Mode().IsRegular():
				return nil, fmt.Errorf("%s is no regular file", file)
			case !mine(st):
				return nil, fmt.Errorf("%s belongs to another user", file)
			}
		}
		caches = append(caches, cache)
	}
	return caches, nil
}

// Forget removes from a file, one of [Files], the negative answers that substituters at these URLs gave before a time,
// to the second, and returns how many. Other rows stay. It waits while Nix has the file locked, for 10 s at most, and
// never creates a file.
func Forget(ctx context.Context, file string, urls []string, before time.Time) (n int64, err error) {
	if file, err = filepath.Abs(file); err != nil {
		return 0, err
	}
	place := url.URL{Scheme: "file", Path: file, RawQuery: url.Values{"mode": {"rw"},
		"_pragma": {fmt.Sprintf("busy_timeout(%d)", lockPatience.Milliseconds())}, "_txlock": {"immediate"}}.Encode()}
	db, err := sql.Open("sqlite", place.String())
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", file, err)
	}
	defer tx.Rollback()
	ids, err := substituters(ctx, tx, urls)
	if err != nil {
		return 0, fmt.Errorf("%s: is it Nix's narinfo cache? %w", file, err)
	}
	for _, id := range ids {
		done, err := tx.ExecContext(ctx, "delete from NARs where cache = ? and present = 0 and timestamp < ?", id, before.Unix())
		if err != nil {
			return 0, fmt.Errorf("%s: %w", file, err)
		}
		rows, err := done.RowsAffected()
		if err != nil {
			return 0, fmt.Errorf("%s: %w", file, err)
		}
		n += rows
	}
	if n == 0 {
		return 0, nil
	}
	return n, tx.Commit()
}

// substituters returns the IDs of the rows about these URLs.
func substituters(ctx context.Context, tx *sql.Tx, urls []string) (ids []int64, err error) {
	rows, err := tx.QueryContext(ctx, "select id, url from BinaryCaches")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var id int64
		var at string
		if err := rows.Scan(&id, &at); err != nil {
			return nil, err
		}
		if slices.ContainsFunc(urls, func(u string) bool { return strings.TrimRight(u, "/") == strings.TrimRight(at, "/") }) {
			ids = append(ids, id)
		}
	}
	return ids, rows.Err()
}
