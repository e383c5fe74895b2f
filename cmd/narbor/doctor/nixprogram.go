package doctor

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// nixTimeLimit bounds one run of nix, which takes 30–100 ms.
const nixTimeLimit = 10 * time.Second

// A nixProgram is a Nix that can be asked for its version and its settings: nix-daemon's own program with that
// process's environment and options, or the nix in PATH for one user.
type nixProgram struct {
	file    string
	daemon  bool // it is nix-daemon's own
	env     []string
	options []string // "--option", name, value, as nix-daemon was started with
	as      *syscall.Credential
}

// systemNix returns the Nix that reports the settings of nix-daemon. Only root may inspect nix-daemon: for other users,
// and where it does not run, systemNix returns the nix in PATH without any user's own settings.
func systemNix(proc string) (nixProgram, error) {
	for _, p := range daemonProcesses(proc, time.Time{}) {
		if p.worker {
			continue
		}
		if n, err := daemonNix(filepath.Join(proc, strconv.Itoa(p.pid))); err == nil {
			return n, nil
		}
	}
	n, err := nixInPath()
	n.env = append(settingsEnv(os.Environ(), "NIX_CONF_DIR"), "PATH="+os.Getenv("PATH"), "NIX_USER_CONF_FILES=/dev/null")
	return n, err
}

// daemonNix returns the program of the process with this directory in /proc. Any user can start a process named
// nix-daemon, and a container has its own files. So the process must have been root's from the start, only root may be
// able to change the program, and the program must have the same path on this machine. A link named nix-daemon can lead
// to any program of root's, such as a shell, so the program's own name must be that of Nix. It runs with little of that
// environment.
func daemonNix(dir string) (nixProgram, error) {
	path, err := os.Readlink(filepath.Join(dir, "exe"))
	if err != nil {
		return nixProgram{}, err
	}
	if name := filepath.Base(path); name != "nix" && name != "nix-daemon" {
		return nixProgram{}, fmt.Errorf("%s is not nix-daemon, whatever the process calls itself", path)
	}
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return nixProgram{}, err
	}
	theirs, err := os.Stat(filepath.Join(dir, "exe"))
	if err != nil {
		return nixProgram{}, err
	}
	ours, err := os.Lstat(path)
	if err != nil {
		return nixProgram{}, err
	}
	owner, ok := ours.Sys().(*syscall.Stat_t)
	if !strings.Contains(string(status), "\nUid:\t0\t0\t0\t0\n") || !os.SameFile(ours, theirs) ||
		!ok || owner.Uid != 0 || ours.Mode()&0o022 != 0 {
		return nixProgram{}, fmt.Errorf("%s is not root's nix-daemon", path)
	}
	environ, err := os.ReadFile(filepath.Join(dir, "environ"))
	if err != nil {
		return nixProgram{}, err
	}
	args, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	if err != nil {
		return nixProgram{}, err
	}
	n := nixProgram{file: path, daemon: true, env: append(settingsEnv(strings.Split(string(environ), "\x00"),
		"HOME", "XDG_CONFIG_HOME", "XDG_CONFIG_DIRS", "NIX_CONF_DIR", "NIX_CONFIG", "NIX_USER_CONF_FILES"), "PATH="+os.Getenv("PATH"))}
	words := strings.Split(string(args), "\x00")
	for i := 0; i+2 < len(words); i++ {
		if words[i] == "--option" {
			n.options = append(n.options, words[i:i+3]...)
			i += 2
		}
	}
	return n, nil
}

func settingsEnv(environ []string, names ...string) (kept []string) {
	for _, e := range environ {
		if name, _, _ := strings.Cut(e, "="); slices.Contains(names, name) {
			kept = append(kept, e)
		}
	}
	return kept
}

func nixInPath() (nixProgram, error) {
	path, err := exec.LookPath("nix")
	if err != nil {
		return nixProgram{}, err
	}
	if resolved, err := filepath.EvalSymlinks(path); err == nil {
		path = resolved
	}
	return nixProgram{file: path, env: os.Environ()}, nil
}

// userNix returns the nix in PATH with the settings of a user, which is another than this program's if that is root's.
func userNix(u *user.User) (nixProgram, error) {
	n, err := nixInPath()
	if err != nil || u.Uid == strconv.Itoa(os.Geteuid()) {
		return n, err
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return n, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return n, err
	}
	n.as = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	n.env = []string{"HOME=" + u.HomeDir, "USER=" + u.Username, "PATH=" + os.Getenv("PATH")}
	return n, nil
}

func (n nixProgram) run(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, nixTimeLimit)
	defer cancel()
	var out, problem bytes.Buffer
	cmd := exec.CommandContext(ctx, n.file, args...)
	cmd.Args[0] = "nix" // nix-daemon and nix are one program, which goes by its name
	cmd.Env, cmd.Stdout, cmd.Stderr, cmd.WaitDelay, cmd.Dir = n.env, &out, &problem, time.Second, "/"
	if n.as != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: n.as}
	}
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", n.file, strings.Join(args, " "), err, strings.TrimSpace(problem.String()))
	}
	return out.String(), nil
}

func (n nixProgram) version(ctx context.Context) (string, error) {
	out, err := n.run(ctx, "--version")
	return strings.TrimSpace(out), err
}

// settings returns the words of each setting as nix prints them. Its JSON has numbers in place of the names of
// experimental features in some versions; its plain text has the names in all.
func (n nixProgram) settings(ctx context.Context) (map[string][]string, error) {
	const feature = "--extra-experimental-features"
	var first error
	for _, args := range [][]string{
		{"config", "show", feature, "nix-command"}, // since 2.20
		{"show-config", feature, "nix-command"},    // since 2.4
		{"show-config"},                            // since 2.0
	} {
		out, err := n.run(ctx, append(args, n.options...)...)
		if err == nil {
			return wordsOf(out), nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}

// wordsOf reads lines of the form "name = words".
func wordsOf(text string) map[string][]string {
	settings := map[string][]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(line, " ="); ok {
			settings[strings.TrimSpace(name)] = strings.Fields(value)
		}
	}
	return settings
}
