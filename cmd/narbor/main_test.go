package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"
	"github.com/nix-community/go-nix/pkg/nixbase32"
	"go.uber.org/zap"

	"narbor/cmd/narbor/control"
	"narbor/cmd/narbor/exit"
	"narbor/store"
	"narbor/store/bincache"
)

// narbor runs the program to its end.
func narbor(ctx context.Context, args ...string) (stdout, stderr string, err error) {
	var out, errs bytes.Buffer
	err = run(ctx, append([]string{"narbor"}, args...), &out, &errs)
	return out.String(), errs.String(), err
}

func TestUsageErrors(t *testing.T) {
	for _, args := range [][]string{
		{"frob"}, {"run", "--nope"}, {"run", "extra"}, {"run", "--port", "70000"}, {"run", "--name", "two words"},
		{"run", "--share", "all"},
		{"run", "--spool-size", "much"}, {"run", "--spool-size", "0"}, {"run", "--upload-rate", "fast"}, {"run", "--upload-rate", "1kB"},
		{"run", "--log-level", "loud"}, {"run", "--log-format", "xml"},
		{"fetch"}, {"fetch", "/etc/passwd"}, {"fetch", "0jqd0rlxzra1rs38rdxl43yh6rxchgc"}, {"completion", "tcsh"},
		{"share", "all"}, {"share", "none", "signed"}, {"share", "pause", "--for", "-1h"}, {"share", "pause", "--for", "soon"},
		{"status", "--watch", "--every", "1ms"},
		{"doctor", "luck"}, {"doctor", "--fix", "running"}, {"stats", "--by", "colour"}, {"why"}, {"why", "/etc/passwd"}, {"why", "a", "b"},
		{"share", "explain"}, {"ping"}, {"ping", "a", "b"}, {"peers", "frob"}, {"peers", "add"}, {"peers", "block", "a", "b"},
	} {
		if args[0] == "run" {
			args = append([]string{"run", "--state-dir", t.TempDir(), "--listen", "127.0.0.1:0"}, args[1:]...)
		}
		_, _, err := narbor(t.Context(), args...)
		var coded exit.Error
		if !errors.As(err, &coded) || coded.Code != exit.Usage {
			t.Errorf("narbor %s = %v, want a usage error", strings.Join(args, " "), err)
		}
	}
}

func TestStatusWithoutNarbor(t *testing.T) {
	_, _, err := narbor(t.Context(), "status", "--socket", filepath.Join(t.TempDir(), "none.sock"))
	var coded exit.Error
	if !errors.As(err, &coded) || coded.Code != exit.NotRunning {
		t.Errorf("status = %v, want exit code %d", err, exit.NotRunning)
	}
}

func TestFlagsMayComeLast(t *testing.T) {
	flags := fetchCommand().Flags
	got := flagsFirst(flags, []string{"a", "--to", "dir", "b", "--no-mdns", "--peer=x", "c", "--", "--to"})
	want := []string{"--to", "dir", "--no-mdns", "--peer=x", "--", "a", "b", "c", "--to"}
	if !slices.Equal(got, want) {
		t.Errorf("flagsFirst = %q, want %q", got, want)
	}
}

func TestCompletionAndVersion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if out, _, err := narbor(t.Context(), "completion", shell); err != nil || !strings.Contains(out, "narbor") {
			t.Errorf("completion %s = %q, %v", shell, out, err)
		}
	}
	if out, _, err := narbor(t.Context(), "version"); err != nil || out != "narbor "+version+"\n" {
		t.Errorf("version = %q, %v", out, err)
	}
}

// makeClosure writes a closure of two signed paths into a cache directory, and returns the key. The trailing bytes
// follow the NAR of the top.
func makeClosure(t *testing.T, dir string, trailing ...byte) (top store.Info, key string) {
	secret, public, err := signature.GenerateKeypair("test-1", rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cache, err := bincache.Open(dir, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var refs []store.Path
	for _, name := range []string{"library", "program"} {
		nar := fileNAR(bytes.Repeat([]byte(name), 50_000))
		if name == "program" {
			nar = append(nar, trailing...)
		}
		part := sha256.Sum256([]byte(name))
		path, err := store.ParsePathName(nixbase32.EncodeToString(part[:20]) + "-" + name)
		if err != nil {
			t.Fatal(err)
		}
		top = store.Info{Path: path, NarHash: sha256.Sum256(nar), NarSize: int64(len(nar)), References: refs}
		var names []string
		for _, r := range refs {
			names = append(names, r.String())
		}
		sig, err := secret.Sign(rand.Reader, fmt.Sprintf("1;%s;%s;%d;%s", path, top.NarHash, top.NarSize, strings.Join(names, ",")))
		if err != nil {
			t.Fatal(err)
		}
		top.Signatures = []string{sig.String()}
		if err := cache.Add(top, bytes.NewReader(nar)); err != nil {
			t.Fatal(err)
		}
		refs = []store.Path{path}
	}
	return top, public.String()
}

// TestMain lets the test binary be narbor itself, for services that run beside a test: the cli package has global
// state, so two programs cannot be in one process.
func TestMain(m *testing.M) {
	if os.Getenv("NARBOR_TEST_IS_NARBOR") != "" {
		for _, name := range []string{"NARBOR_TEST_IS_NARBOR", "NARBOR_CHECK", "NARBOR_NIGHTLY", "NARBOR_SLOW"} {
			os.Unsetenv(name) // status would say that they are misspelt
		}
		main()
		return
	}
	// Neighbours are on this computer alone: vsock and the gateways of its networks lead to others.
	os.Setenv("NARBOR_NO_VSOCK", "true")
	os.Setenv("NARBOR_NO_INTERFACE", "*")
	os.Exit(m.Run())
}

// started runs narbor until the test ends, and waits until it answers status.
func started(t *testing.T, args ...string) control.Status {
	t.Helper()
	return startedAt(t, filepath.Join(t.TempDir(), "s.sock"), args...)
}

func startedAt(t *testing.T, socket string, args ...string) control.Status {
	t.Helper()
	state := t.TempDir()
	cmd := exec.Command(os.Args[0], append([]string{"run", "--state-dir", state, "--socket", socket, "--port", "0", "--no-mdns",
		"--listen", "127.0.0.1:0", "--min-free", "0", "--share-key", "test-1"}, args...)...)
	cmd.Env = append(os.Environ(), "NARBOR_TEST_IS_NARBOR=1")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		if err := <-ended; err != nil {
			t.Errorf("run = %v\n%s", err, out.String())
		}
	})
	for deadline := time.After(atMost(time.Minute)); ; {
		if text, _, err := narbor(t.Context(), "status", "--json", "--socket", socket); exit.Code(err) == 0 ||
			exit.Code(err) == exit.Degraded {
			var st control.Status
			if err := json.Unmarshal([]byte(text), &st); err != nil {
				t.Fatal(err)
			}
			return st
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatal("narbor ended before it answered")
		case <-deadline:
			t.Fatal("narbor does not answer")
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// peerArg is how to reach a narbor that listens on all addresses from this machine.
func peerArg(t *testing.T, st control.Status) string {
	for _, addr := range st.Addrs {
		if port, ok := strings.CutPrefix(addr, "/ip4/0.0.0.0/tcp/"); ok {
			return "127.0.0.1:" + port
		}
	}
	t.Fatalf("no IPv4 address in %q", st.Addrs)
	return ""
}

func TestFetchBringsAClosure(t *testing.T) {
	cacheDir := t.TempDir()
	top, key := makeClosure(t, cacheDir)
	st := started(t, "--cache-dir", cacheDir, "--trusted-key", key)
	if !slices.Contains(st.ShareKeys, "test-1") || st.Sharing != "signed" || st.Schema != 1 {
		t.Errorf("status = %+v: wrong about sharing", st)
	}
	to := t.TempDir()
	fetch := []string{"fetch", top.Path.String(), "--to", to, "--peer", peerArg(t, st), "--no-mdns", "--trusted-key", key}
	out, errs, err := narbor(t.Context(), fetch...)
	if err != nil {
		t.Fatalf("fetch = %v\n%s%s", err, out, errs)
	}
	got, err := bincache.Open(to, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []store.Path{top.Path, top.References[0]} {
		if !got.Has(p.HashPart()) {
			t.Errorf("%s has not arrived", p)
		}
	}
	if out, _, err := narbor(t.Context(), fetch...); err != nil || !strings.Contains(out, "0 paths to fetch") {
		t.Errorf("fetch again = %q, %v: want nothing to do", out, err)
	}
	if _, err := os.Stat(filepath.Join(to, ".incoming")); !os.IsNotExist(err) {
		t.Errorf("the scratch directory is left behind: %v", err)
	}
	absent := strings.Repeat("a", 32)
	_, _, err = narbor(t.Context(), "fetch", absent, "--to", to, "--peer", peerArg(t, st), "--no-mdns", "--trusted-key", key)
	var coded exit.Error
	if !errors.As(err, &coded) || coded.Code != exit.NotFound {
		t.Errorf("fetch of an unknown path = %v, want exit code %d", err, exit.NotFound)
	}
}

func TestFetchRefusesMalformedNAR(t *testing.T) {
	cacheDir, to := t.TempDir(), t.TempDir()
	top, key := makeClosure(t, cacheDir, 0)
	st := started(t, "--cache-dir", cacheDir, "--trusted-key", key)
	_, _, err := narbor(t.Context(), "fetch", top.Path.String(), "--to", to, "--peer", peerArg(t, st), "--no-mdns", "--trusted-key", key)
	if !errors.Is(err, store.ErrMalformed) || !strings.Contains(err.Error(), top.Path.String()) {
		t.Errorf("fetch = %v, want ErrMalformed with the path", err)
	}
	got, err := bincache.Open(to, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if got.Has(top.Path.HashPart()) {
		t.Error("a malformed NAR is in the directory")
	}
}

func TestSharingIsTurnedOnAndOff(t *testing.T) {
	cacheDir, socket := t.TempDir(), filepath.Join(t.TempDir(), "s.sock")
	top, key := makeClosure(t, cacheDir)
	st := startedAt(t, socket, "--cache-dir", cacheDir, "--trusted-key", key, "--share", "none")
	for _, what := range []string{"none", "signed", "none", "signed"} { // the first is what it was started with
		_, _, err := narbor(t.Context(), "fetch", top.Path.String(), "--to", t.TempDir(), "--peer", peerArg(t, st), "--no-mdns",
			"--trusted-key", key)
		if what == "none" && !errors.Is(err, store.ErrNotFound) || what == "signed" && err != nil {
			t.Errorf("fetch from a peer that shares %s = %v", what, err)
		}
		if out, _, err := narbor(t.Context(), "status", "--json", "--socket", socket); exit.Code(err) == exit.NotRunning ||
			!strings.Contains(out, `"sharing": "`+what+`"`) {
			t.Errorf("status = %v, want sharing %s in %s", err, what, out)
		}
		next := map[string]string{"none": "signed", "signed": "none"}[what]
		if out, _, err := narbor(t.Context(), "share", next, "--socket", socket); err != nil ||
			!strings.Contains(out, "until narbor is restarted") {
			t.Fatalf("share %s = %q, %v", next, out, err)
		}
	}
}

func TestOnlyTheOwnerChangesWhatIsShared(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("becoming another user needs root")
	}
	dir := t.TempDir()
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	socket := filepath.Join(dir, "s.sock")
	startedAt(t, socket)
	for _, c := range []struct {
		uid             uint32
		method, path    string
		body, want, now string
	}{
		{12345, "GET", "/status", "", "200", "signed"}, {12345, "PUT", "/share", "none", "403", "signed"},
		{65534, "PUT", "/share", "none", "403", "signed"},
		{12345, "GET", "/config", "", "403", "signed"}, {0, "GET", "/config", "", "200", "signed"},
		{12345, "GET", "/settings", "", "403", "signed"}, {0, "GET", "/settings", "", "200", "signed"},
		{12345, "POST", "/peers/block?peer=x", "", "403", "signed"}, {12345, "POST", "/peers/add?peer=192.0.2.1", "", "403", "signed"},
		{12345, "POST", "/ping?peer=x&count=1&bytes=0", "", "403", "signed"},
		{0, "POST", "/peers/block?peer=x", "", "404", "signed"}, {0, "PUT", "/share", "all", "400", "signed"},
		{0, "POST", "/share", "none", "405", "signed"}, {0, "PUT", "/share", "none", "204", "none"},
	} {
		cmd := exec.Command("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--unix-socket", socket, "-X", c.method, "-d", c.body,
			"http://narbor"+c.path)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: c.uid, Gid: c.uid}}
		out, err := cmd.CombinedOutput()
		if err != nil || string(out) != c.want {
			t.Errorf("as user %d, %s %s %q = %s, %v, want %s", c.uid, c.method, c.path, c.body, out, err, c.want)
		}
		if st, _, err := narbor(t.Context(), "status", "--json", "--socket", socket); exit.Code(err) == exit.NotRunning ||
			!strings.Contains(st, `"sharing": "`+c.now+`"`) {
			t.Errorf("after that, status = %v, want sharing %s in %s", err, c.now, st)
		}
	}
}

// With the socket from systemd, Nix must get an answer even if narbor cannot start: here, for a port that is taken,
// and for a setting that is none.
func TestNixGetsAnAnswerWhenNarborCannotStart(t *testing.T) {
	taken, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, port, err := net.SplitHostPort(taken.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for name, setting := range map[string]string{"port taken": "NARBOR_PORT=" + port, "no port": "NARBOR_PORT=x",
		"no size": "NARBOR_SPOOL_SIZE=x"} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			file, err := l.(*net.TCPListener).File()
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			state := t.TempDir()
			cmd := exec.Command("sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`, os.Args[0], "run", "--state-dir", state, "--no-mdns")
			cmd.Env = append(os.Environ(), "NARBOR_TEST_IS_NARBOR=1", "LISTEN_FDS=1", setting)
			cmd.ExtraFiles = []*os.File{file}
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				cmd.Process.Signal(syscall.SIGTERM)
				if err := cmd.Wait(); err == nil || !strings.Contains(out.String(), "Nix gets 404") {
					t.Errorf("narbor ended with %v and said %q, want an error that says what Nix gets", err, out.String())
				}
			})
			client := http.Client{Timeout: 15 * time.Second}
			for path, want := range map[string]int{"/nix-cache-info": http.StatusOK,
				"/" + strings.Repeat("a", 32) + ".narinfo": http.StatusNotFound} {
				resp, err := client.Get("http://" + l.Addr().String() + path)
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				if resp.StatusCode != want {
					t.Errorf("GET %s = %s, want %d", path, resp.Status, want)
				}
			}
		})
	}
}

func TestStateIsNobodyElses(t *testing.T) {
	state := filepath.Join(t.TempDir(), "new")
	started(t, "--state-dir", state)
	if st, err := os.Stat(state); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("the state directory has mode %v, %v, want 0700", st.Mode(), err)
	}
}

func TestControlServerSetsItsLimits(t *testing.T) {
	srv := control.NewServer(http.NotFoundHandler(), zap.NewNop())
	if srv.ReadTimeout <= 0 || srv.WriteTimeout <= 0 || srv.IdleTimeout <= 0 || srv.MaxHeaderBytes <= 0 {
		t.Errorf("controlServer = %+v: a limit is missing", srv)
	}
}

func TestControlSocketReplacesSocketsOnly(t *testing.T) {
	dir := t.TempDir()
	file, stale := filepath.Join(dir, "file"), filepath.Join(dir, "stale")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if l, err := control.Listen(file); err == nil {
		l.Close()
		t.Error("listenControl(a file) works, want an error")
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "precious" {
		t.Errorf("the file is %q, %v: want it untouched", text, err)
	}
	dead, err := net.Listen("unix", stale)
	if err != nil {
		t.Fatal(err)
	}
	dead.(*net.UnixListener).SetUnlinkOnClose(false)
	dead.Close()
	l, err := control.Listen(stale)
	if err != nil {
		t.Fatalf("listenControl(a dead socket) = %v", err)
	}
	defer l.Close()
	if _, err := control.Listen(stale); err == nil {
		t.Error("listenControl(a live socket) works, want an error")
	}
}

func TestLookupsArePatient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			misses, asked int
			err           error
		}{{0, 1, nil}, {2, 3, nil}, {99, lookupTries, store.ErrNotFound}} {
			asked := 0
			_, err := patiently(t.Context(), func() (int, error) {
				if asked++; asked <= c.misses {
					return 0, store.ErrNotFound
				}
				return 1, nil
			})
			if !errors.Is(err, c.err) || asked != c.asked {
				t.Errorf("after %d misses: %v, asked %d times, want %v, %d", c.misses, err, asked, c.err, c.asked)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := patiently(ctx, func() (int, error) { return 0, store.ErrNotFound }); !errors.Is(err, context.Canceled) {
			t.Errorf("patiently after the end = %v, want %v", err, context.Canceled)
		}
	})
}

func TestFetchLeavesOutWhatIsNoKey(t *testing.T) {
	_, key := makeClosure(t, t.TempDir())
	t.Setenv("NIX_CONFIG", "extra-trusted-public-keys = nonsense")
	_, errs, err := narbor(t.Context(), "fetch", strings.Repeat("a", 32), "--to", t.TempDir(), "--no-mdns", "--trusted-key", key)
	var coded exit.Error
	if !errors.As(err, &coded) || coded.Code != exit.NotFound {
		t.Errorf("fetch with a broken key in nix.conf = %v, want that no neighbour has it\n%s", err, errs)
	}
}

func TestPauseEndsByItself(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s.sock")
	startedAt(t, socket)
	sharing := func() (st ShareStatus) {
		t.Helper()
		out, _, err := narbor(t.Context(), "share", "--json", "--socket", socket)
		if err := errors.Join(err, json.Unmarshal([]byte(out), &st)); err != nil {
			t.Fatal(err)
		}
		return st
	}
	if _, _, err := narbor(t.Context(), "share", "pause", "--for", "1h", "--socket", socket); err != nil {
		t.Fatal(err)
	}
	if st := sharing(); st.Sharing != "none" || st.PausedUntil == nil || time.Until(*st.PausedUntil) > time.Hour {
		t.Errorf("paused for an hour: %+v", st)
	}
	if _, _, err := narbor(t.Context(), "share", "pause", "--for", "100ms", "--socket", socket); err != nil {
		t.Fatal(err)
	}
	eventually(t, "sharing again", func() bool { return sharing().Sharing == "signed" })
	// A pause that was ended does not end again.
	for _, args := range [][]string{{"pause", "--for", "1s"}, {"resume"}, {"pause"}} {
		if out, errs, err := narbor(t.Context(), append([]string{"share", "--socket", socket}, args...)...); err != nil {
			t.Fatal(out, errs, err)
		}
	}
	if st := sharing(); st.Sharing != "none" || st.PausedUntil != nil {
		t.Errorf("paused for good: %+v", st)
	}
}
