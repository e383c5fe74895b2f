// Package narinfocache removes negative answers from Nix's narinfo cache: Nix remembers for an hour that a substituter does
// not have a path (its setting narinfo-cache-negative-ttl), and a neighbour that has it may have come meanwhile.
//
// The cache is an SQLite file, binary-cache-v6.sqlite since Nix 2.3, v7 since 2.31, v8 since 2.35, with one row for each
// path and substituter. The Nix daemon keeps it for root, and may use it at the same time. The package keeps no state; its
// functions may be called concurrently.
package narinfocache

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
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

// Files returns the narinfo caches in a folder, of all versions of Nix that have run here. There may be none.
func Files(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var files []string
	for _, e := range entries {
		version, ok := strings.CutPrefix(e.Name(), "binary-cache-v")
		version, sqlite := strings.CutSuffix(version, ".sqlite")
		if _, err := strconv.ParseUint(version, 10, 16); ok && sqlite && err == nil && e.Type().IsRegular() {
			files = append(files, filepath.Join(dir, e.Name()))
		}
	}
	return files, nil
}

// Forget removes from a file the negative answers that substituters at these URLs gave before a time, to the second, and
// returns how many. Other rows stay. It waits while Nix has the file locked, for 10 s at most, and never creates a file.
func Forget(ctx context.Context, file string, urls []string, before time.Time) (n int64, err error) {
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
