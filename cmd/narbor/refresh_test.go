package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"narbor/cmd/narbor/control"
	"narbor/p2p"
)

// systemd itself sets no limit for a unit of this type. The NixOS module must have the same settings, see integration.
func TestRefreshUnitEndsAfterAMinute(t *testing.T) {
	if !strings.Contains(refreshUnit, "\nTimeoutStartSec=60\n") {
		t.Errorf("narbor-refresh.service has another limit than a minute:\n%s", refreshUnit)
	}
}

// sudo -E leaves root the environment of a user.
func TestRefreshByRootIgnoresCacheOfTheEnvironment(t *testing.T) {
	for _, name := range []string{"XDG_CACHE_HOME", "NIX_CACHE_HOME"} {
		dir := t.TempDir()
		t.Setenv(name, dir)
		if got, _, err := nixCache(0); err != nil || strings.HasPrefix(got, dir) || !strings.HasSuffix(got, "/.cache/nix") {
			t.Errorf("with %s, root's folder is %q, %v", name, got, err)
		}
		if got, _, err := nixCache(1000); err != nil || !strings.HasPrefix(got, dir) {
			t.Errorf("with %s, a user's folder is %q, %v, want it in %s", name, got, err, dir)
		}
	}
}

func TestRefreshByRootRefusesCachesOfUsers(t *testing.T) {
	dir := t.TempDir()
	file, _ := narinfoCache(t, dir)
	if os.Geteuid() == 0 {
		if err := os.Chown(file, nobodyUID, nobodyUID); err != nil {
			t.Fatal(err)
		}
	}
	for uid, want := range map[int]bool{0: false, 1000: true} {
		_, find, err := nixCache(uid)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := find(dir); (err == nil) != want {
			t.Errorf("user %d finds %q, %v; want that root refuses files of others, and the user does not", uid, got, err)
		}
	}
}

// If there is a nix-daemon, an ordinary user cannot change its cache.
func TestRefreshByUserPointsToRoot(t *testing.T) {
	dir, err := os.MkdirTemp("", "narbor") // other users may not enter t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	program, socket := filepath.Join(dir, "narbor"), filepath.Join(dir, "socket")
	if err := errors.Join(os.Chmod(dir, 0o755), exec.Command("cp", os.Args[0], program).Run(), os.WriteFile(socket, nil, 0o644),
		os.Mkdir(filepath.Join(dir, "closed"), 0o000)); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{nil, {"--nix-cache", filepath.Join(dir, "closed")}} {
		cmd := exec.Command(program, append([]string{"refresh", "--socket", filepath.Join(dir, "none")}, args...)...)
		cmd.Dir, cmd.Env = dir, []string{"NARBOR_TEST_IS_NARBOR=1", "HOME=" + dir, "NIX_DAEMON_SOCKET_PATH=" + socket}
		if os.Geteuid() == 0 {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobodyUID, Gid: nobodyUID}}
		}
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), "belongs to root: run sudo narbor refresh") {
			t.Errorf("narbor refresh %q as a user = %v, %q, want that root has to run it", args, err, out)
		}
	}
}

func TestRefreshGoesByNeighboursThatStay(t *testing.T) {
	dir := t.TempDir()
	_, db := narinfoCache(t, dir)
	left := func() (n int) {
		t.Helper()
		if err := db.QueryRow("select count(*) from NARs").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	refresh := func(neighbours ...p2p.NeighbourStatus) string {
		t.Helper()
		said, _, err := narbor(t.Context(), "refresh", "--new-neighbours", "--nix-cache", dir, "--socket", statusSocket(t, neighbours))
		if err != nil {
			t.Error(err)
		}
		return said
	}
	passing, stays := p2p.NeighbourStatus{ConnectedSeconds: 1, Passing: true}, p2p.NeighbourStatus{ConnectedSeconds: 1000}
	if said := refresh(passing); !strings.Contains(said, "no neighbours") || left() != 2 {
		t.Errorf("with a machine that passes, %d rows are left, want 2: %s", left(), said)
	}
	if said := refresh(passing, stays, p2p.NeighbourStatus{ConnectedSeconds: 3000}); left() != 1 {
		t.Errorf("%d rows are left, want that from after the last neighbour came: %s", left(), said)
	}
}

// narinfoCache creates a narinfo cache with two negative answers of narbor, of 500 s and 2000 s ago.
func narinfoCache(t *testing.T, dir string) (file string, db *sql.DB) {
	t.Helper()
	file = filepath.Join(dir, "binary-cache-v6.sqlite")
	db, err := sql.Open("sqlite", file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	now := time.Now().Unix()
	_, err = db.Exec(fmt.Sprintf(`create table BinaryCaches (id integer primary key, url text);
		insert into BinaryCaches values (1, 'http://127.0.0.1:6272');
		create table NARs (cache integer, hashPart text, timestamp integer, present integer);
		insert into NARs values (1, 'a', %d, 0), (1, 'b', %d, 0);`, now-500, now-2000))
	if err != nil {
		t.Fatal(err)
	}
	return file, db
}

// statusSocket is the control socket of a narbor with these neighbours.
func statusSocket(t *testing.T, neighbours []p2p.NeighbourStatus) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "narbor") // a socket's name must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	server := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(w).Encode(control.Status{Status: p2p.Status{Neighbours: neighbours}, HTTP: []string{"127.0.0.1:6272"}})
	})}
	done := make(chan struct{})
	go func() { defer close(done); server.Serve(l) }()
	t.Cleanup(func() {
		server.Shutdown(context.Background())
		<-done
	})
	return l.Addr().String()
}
