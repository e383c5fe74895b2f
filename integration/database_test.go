package integration_test

import (
	"database/sql"
	"os"
	"path/filepath"

	_ "modernc.org/sqlite"

	"narbor/integration/lan"
)

// nixDatabase is where Nix records which paths are valid.
const nixDatabase = "/nix/var/nix/db/db.sqlite"

// database returns a copy of a host's Nix database.
func (w world) database(h *lan.Host) *sql.DB {
	w.Helper()
	file := filepath.Join(w.TempDir(), "copy.sqlite")
	for _, suffix := range []string{"", "-wal"} {
		text, err := h.Run(w.ctx, "sh", "-c", "cat "+nixDatabase+suffix+" 2>/dev/null || true")
		w.must(err)
		w.must(os.WriteFile(file+suffix, []byte(text), 0o600))
	}
	db, err := sql.Open("sqlite", file)
	w.must(err)
	w.Cleanup(func() { db.Close() })
	return db
}

// count returns the number that a query yields.
func (w world) count(db *sql.DB, query string) (n int) {
	w.Helper()
	w.must(db.QueryRow(query).Scan(&n))
	return n
}
