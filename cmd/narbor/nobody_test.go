package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
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
	"narbor/store"
)

// An outside is what another user knows of a narbor that runs on the same machine.
type outside struct {
	HTTP, Socket, State string
	PID                 int
	Path, Nar           string // of a path that is there, as URLs
	Entry               string // of the spool
}

const (
	narborUID = 61234
	nobodyUID = 65534
)

// TestOtherUsers runs narbor as one user and comes as another.
func TestOtherUsers(t *testing.T) {
	if text := os.Getenv("NARBOR_TEST_OUTSIDE"); text != "" {
		var o outside
		if err := json.Unmarshal([]byte(text), &o); err != nil {
			t.Fatal(err)
		}
		o.check(t)
		return
	}
	if os.Getuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs root, and must run under CI=true")
		}
		t.Skip("needs root to be two other users")
	}
	dir, err := os.MkdirTemp("", "narbor") // t.TempDir is for its owner alone, which would hide faults below it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	program, home, cache := filepath.Join(dir, "narbor"), filepath.Join(dir, "var"), filepath.Join(dir, "cache")
	err = errors.Join(os.Chmod(dir, 0o755), exec.Command("cp", os.Args[0], program).Run(), os.Mkdir(home, 0o755), os.Mkdir(cache, 0o755),
		os.Chown(home, narborUID, narborUID))
	if err != nil {
		t.Fatal(err)
	}
	top, key := makeClosure(t, cache)
	if err := filepath.WalkDir(cache, func(path string, _ fs.DirEntry,
		_ error) error {
		return os.Lchown(path, narborUID, narborUID)
	}); err != nil {
		t.Fatal(err)
	}
	o := outside{Socket: filepath.Join(home, "s.sock"), State: filepath.Join(home, "state"),
		Path: "/" + string(top.Path.HashPart()) + ".narinfo",
		Nar:  "/nar/" + string(top.Path.HashPart()) + "-" + top.NarHash.Base32() + ".nar"}
	as := func(uid uint32, env string, args ...string) (*exec.Cmd, *bytes.Buffer) {
		cmd := exec.Command(program, args...)
		cmd.Dir = dir
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "NARBOR_NO_VSOCK=true", env}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		out := new(bytes.Buffer)
		cmd.Stdout, cmd.Stderr = out, out
		return cmd, out
	}
	cmd, out := as(narborUID, "NARBOR_TEST_IS_NARBOR=1", "run", "--state-dir", o.State, "--socket", o.Socket, "--port", "0", "--no-mdns",
		"--listen", "127.0.0.1:0",
		"--allow-host", "guest.example", "--min-free", "0", "--cache-dir", cache, "--trusted-key", key, "--share-key", "test-1")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil || t.Failed() {
			t.Errorf("run = %v\n%s", err, out.String())
		}
	})
	o.PID, o.HTTP = cmd.Process.Pid, addrOnceUp(t, o.Socket)
	o.Entry = halfFetched(t, o, top)
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	for _, uid := range []uint32{nobodyUID, narborUID + 1} {
		other, said := as(uid, "NARBOR_TEST_OUTSIDE="+string(text), "-test.run", "^TestOtherUsers$")
		if err := other.Run(); err != nil || !strings.Contains(said.String(), "PASS") {
			t.Errorf("as user %d: %v\n%s", uid, err, said)
		}
	}
	// The user that narbor runs as, and root, may change it.
	for _, uid := range []uint32{narborUID, 0} {
		own, said := as(uid, "NARBOR_TEST_IS_NARBOR=1", "share", "none", "--socket", o.Socket)
		if err := own.Run(); err != nil {
			t.Errorf("share none as user %d = %v\n%s", uid, err, said)
		}
	}
}

// addrOnceUp waits until narbor answers, and returns where Nix asks.
func addrOnceUp(t *testing.T, socket string) string {
	t.Helper()
	for deadline := time.Now().Add(atMost(time.Minute)); ; time.Sleep(20 * time.Millisecond) {
		var st control.Status
		err := control.Client{Paths: []string{socket}, Timeout: control.Timeout}.Get(t.Context(), "/status", &st)
		if err == nil {
			return strings.TrimPrefix(st.HTTP[0], "http://")
		}
		if time.Now().After(deadline) {
			t.Fatalf("narbor does not answer: %v", err)
		}
	}
}

// halfFetched leaves a NAR in the spool, as Nix does when it hangs up, and returns its file.
func halfFetched(t *testing.T, o outside, info store.Info) string {
	t.Helper()
	req, err := http.NewRequest("GET", "http://"+o.HTTP+o.Nar, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Range", "bytes=0-9")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	entries, err := os.ReadDir(filepath.Join(o.State, "spool"))
	if err != nil || resp.StatusCode != http.StatusPartialContent {
		t.Fatalf("first bytes of %s = %s, %v", info.Path, resp.Status, err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), info.NarHash.Base32()) {
			return filepath.Join(o.State, "spool", e.Name())
		}
	}
	t.Fatalf("%s is not in the spool: %v", info.Path, entries)
	return ""
}

// check is what another user tries.
func (o outside) check(t *testing.T) {
	overTCP := &http.Client{Timeout: 20 * time.Second}
	overSocket := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
		DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", o.Socket) }}}
	for _, tt := range []struct {
		client             *http.Client
		method, host, path string
		want               int
	}{
		{overTCP, "GET", "", "/nix-cache-info", 200}, {overTCP, "GET", "", o.Path, 200}, {overTCP, "HEAD", "", o.Nar, 200},
		{overTCP, "GET", "", o.Nar, 200},
		{overTCP, "GET", "guest.example", o.Path, 200}, {overTCP, "GET", "evil.example", o.Path, 403}, {overTCP, "GET", "", "/status", 404},
		{overTCP, "PUT", "", "/share", 405}, {overTCP, "POST", "", "/share", 405}, {overTCP, "DELETE", "", o.Nar, 405},
		{overSocket, "GET", "", "/status", 200}, {overSocket, "PUT", "", "/share", 403}, {overSocket, "POST", "", "/share", 405},
		{overSocket, "GET", "", "/share", 405},
		{overSocket, "POST", "", "/status", 405}, {overSocket, "GET", "", "/../state/identity.key", 404},
		{overSocket, "GET", "", "/log", 404},
	} {
		req, err := http.NewRequest(tt.method, "http://"+o.HTTP+tt.path, strings.NewReader("none"))
		if err != nil {
			t.Fatal(err)
		}
		if tt.method == "GET" || tt.method == "HEAD" {
			req.Body, req.ContentLength = nil, 0
		}
		req.Host = tt.host
		resp, err := tt.client.Do(req)
		if err != nil {
			t.Errorf("%s %s: %v", tt.method, tt.path, err)
			continue
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if resp.StatusCode != tt.want {
			t.Errorf("%s %s of %s = %d, want %d", tt.method, tt.path, tt.host, resp.StatusCode, tt.want)
		}
	}
	read := func(path string) error { _, err := os.ReadFile(path); return err }
	list := func(path string) error { _, err := os.ReadDir(path); return err }
	for what, err := range map[string]error{
		"list the state":       list(o.State),
		"list the spool":       list(filepath.Join(o.State, "spool")),
		"read from the spool":  read(o.Entry),
		"write to the spool":   os.WriteFile(o.Entry, nil, 0o600),
		"fill the spool":       os.WriteFile(filepath.Join(o.State, "spool", "x"), nil, 0o600),
		"read the identity":    read(filepath.Join(o.State, "identity.key")),
		"replace the identity": os.Remove(filepath.Join(o.State, "identity.key")),
		"list the cache":       list(filepath.Join(o.State, "cache")),
		"replace the socket":   os.Remove(o.Socket),
		"close the socket":     os.Chmod(o.Socket, 0),
		"add to its directory": os.WriteFile(o.Socket+"2", nil, 0o600),
		"read the memory":      read(fmt.Sprintf("/proc/%d/mem", o.PID)),
		"read the environment": read(fmt.Sprintf("/proc/%d/environ", o.PID)),
		"list the open files":  list(fmt.Sprintf("/proc/%d/fd", o.PID)),
		"end it":               syscall.Kill(o.PID, syscall.SIGTERM),
	} {
		if !errors.Is(err, fs.ErrPermission) {
			t.Errorf("another user that tries to %s gets %v, want that it is not permitted", what, err)
		}
	}
}

func TestStateThatEveryUserMayWriteToIsRefused(t *testing.T) {
	dir := t.TempDir()
	for mode, refused := range map[fs.FileMode]bool{0o700: false, 0o755: false, 0o777: true, 0o702: true, 0o777 | fs.ModeSticky: true} {
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		if err := makeStateDir(dir); (err != nil) != refused {
			t.Errorf("makeStateDir with mode %v = %v, want it refused: %t", mode, err, refused)
		}
	}
}
