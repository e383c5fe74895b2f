package lan

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// unprivileged is the user ID with which narbor runs.
const unprivileged = 65534

// HostConfig describes a host. Only Name is required.
type HostConfig struct {
	Name string
	// Nix is the directory of the initial contents of the host's /nix, with store and var in it; "" is an empty one.
	// It stays unchanged: the host's writes go to memory.
	Nix string
	// Copy makes /nix a plain tmpfs with a copy of Nix in it, not a layer over it: for benchmarks.
	Copy bool
	// StateBytes is the size of the file system that holds narbor's state and spool; 0 is half of memory.
	StateBytes int64
	// System is the directory of the host's /usr, /bin, /lib and so on, such as one of [Nixes]; "" is this computer's.
	System string
	// Binds are further directories: from path on the host to path on this computer, read-only.
	Binds map[string]string
	// Listen are additional addresses on which its narbor serves HTTP.
	Listen []string
}

// A Host is a machine on the LAN. Its methods may be called concurrently.
type Host struct {
	Name  string
	Addr4 netip.Addr
	Addr6 netip.Addr

	lan  *LAN
	ns   *namespace
	root string
	port string // name of the bridge's end of the cable

	listens []string // as in HostConfig

	mu      sync.Mutex // guards sockets
	sockets []*os.File // narbor's listening sockets
}

// Add starts a host and plugs it in.
func (l *LAN) Add(cfg HostConfig) (*Host, error) {
	ns, err := newNamespace(machine)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", cfg.Name, err)
	}
	l.added++
	n := l.added
	h := &Host{Name: cfg.Name, Addr4: addr4(n), Addr6: addr6(n), lan: l, ns: ns,
		root: filepath.Join(l.dir, "root-"+cfg.Name), port: "port" + strconv.Itoa(n), listens: cfg.Listen}
	l.hosts = append(l.hosts, h)
	if err := ns.do(func() error { return h.mountRoot(cfg) }); err != nil {
		return nil, fmt.Errorf("%s: root directory: %w", cfg.Name, err)
	}
	// A child process mounts /proc: /proc shows the PID namespace of the process that mounts it, and this thread is in
	// another one.
	mountProc := command{args: []string{"mount", "-t", "proc", "proc", filepath.Join(h.root, "proc")}}
	if _, err := ns.run(context.Background(), mountProc); err != nil {
		return nil, err
	}
	if err := h.prepare(cfg); err != nil {
		return nil, fmt.Errorf("%s: %w", cfg.Name, err)
	}
	return h, l.plug(h)
}

func (h *Host) close() error {
	h.CloseSockets()
	return h.ns.close()
}

// mountRoot builds the root directory; it runs inside the host's mount namespace.
func (h *Host) mountRoot(cfg HostConfig) error {
	if err := mount("tmpfs", h.root, "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	for _, name := range []string{"usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"} {
		if err := h.share(cfg.System, name); err != nil {
			return err
		}
	}
	for _, dir := range []string{"etc/nix", "root/.cache", "run/narbor", "var/log/nginx", "var/lib/nginx", "srv", "proc"} {
		if err := os.MkdirAll(filepath.Join(h.root, dir), 0o755); err != nil {
			return err
		}
	}
	state := "mode=700,uid=65534,gid=65534"
	if cfg.StateBytes > 0 {
		state += ",size=" + strconv.FormatInt(cfg.StateBytes, 10)
	}
	for _, m := range []struct {
		source, dir, kind string
		flags             uintptr
		data              string
	}{
		{"/dev", "dev", "", unix.MS_BIND | unix.MS_REC, ""},
		{"sysfs", "sys", "sysfs", 0, ""},
		{"tmpfs", "sys/class/misc", "tmpfs", 0, "mode=755"}, // hides vsock, by which a guest would reach its own host
		{"tmpfs", "tmp", "tmpfs", 0, "mode=1777"},
		{"tmpfs", "var/lib/narbor", "tmpfs", 0, state},
	} {
		if err := mount(m.source, filepath.Join(h.root, m.dir), m.kind, m.flags, m.data); err != nil {
			return err
		}
	}
	for dir, source := range cfg.Binds {
		if err := bindReadOnly(source, filepath.Join(h.root, dir)); err != nil {
			return err
		}
	}
	return h.mountNix(cfg)
}

// share gives the host one of the top-level directories of a system, or the symlink that is in its place.
func (h *Host) share(system, name string) error {
	source, target := filepath.Join("/", system, name), filepath.Join(h.root, name)
	st, err := os.Lstat(source)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if st.Mode()&os.ModeSymlink == 0 {
		return bindReadOnly(source, target)
	}
	link, err := os.Readlink(source)
	if err != nil {
		return err
	}
	return os.Symlink(link, target)
}

func (h *Host) mountNix(cfg HostConfig) error {
	nix, layer := filepath.Join(h.root, "nix"), filepath.Join(h.root, ".nix")
	if cfg.Nix == "" || cfg.Copy {
		return mount("tmpfs", nix, "tmpfs", 0, "mode=755,size=80%")
	}
	if err := mount("tmpfs", layer, "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	for _, dir := range []string{"upper", "work"} {
		if err := os.Mkdir(filepath.Join(layer, dir), 0o755); err != nil {
			return err
		}
	}
	return mount("overlay", nix, "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work,redirect_dir=on",
		cfg.Nix, layer, layer))
}

// prepare fills the root directory from inside.
func (h *Host) prepare(cfg HostConfig) error {
	if cfg.Copy && cfg.Nix != "" {
		cp := []string{"cp", "-a", "-T", cfg.Nix, filepath.Join(h.root, "nix")}
		if _, err := h.ns.run(context.Background(), command{args: cp}); err != nil {
			return err
		}
	}
	for name, text := range map[string]string{
		"/etc/passwd":        "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n",
		"/etc/group":         "root:x:0:\nnogroup:x:65534:\n",
		"/etc/hosts":         "127.0.0.1 localhost\n::1 localhost\n",
		"/etc/nsswitch.conf": "hosts: files dns\n",
		"/etc/hostname":      h.Name + "\n",
		"/etc/nix/nix.conf":  "build-users-group =\nsandbox = false\n",
	} {
		if err := h.WriteFile(name, text); err != nil {
			return err
		}
	}
	// Duplicate address detection would keep every address useless for two seconds.
	script := "hostname " + h.Name + " && chown 65534:65534 /run/narbor && " +
		"for i in all default; do echo 0 > /proc/sys/net/ipv6/conf/$i/accept_dad; done"
	_, err := h.Run(context.Background(), "sh", "-c", script)
	return err
}

// mount creates the directory target and mounts there.
func mount(source, target, kind string, flags uintptr, data string) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(source, target, kind, flags, data); err != nil {
		return fmt.Errorf("mount %s at %s (%s): %w", source, target, data, err)
	}
	return nil
}

func bindReadOnly(source, target string) error {
	if err := mount(source, target, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	return mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
}

// Run runs a command as root to its end and returns its standard output. The error has its standard error in it.
func (h *Host) Run(ctx context.Context, name string, args ...string) (string, error) {
	out, err := h.ns.run(ctx, h.command(append([]string{name}, args...)))
	if err != nil {
		return out, fmt.Errorf("%s: %w", h.Name, err)
	}
	return out, nil
}

// Watch is Run that calls line with each line of the command's standard error as it is written.
func (h *Host) Watch(ctx context.Context, line func(string), args ...string) (string, error) {
	c := h.command(args)
	c.line = line
	out, err := h.ns.run(ctx, c)
	if err != nil {
		return out, fmt.Errorf("%s: %w", h.Name, err)
	}
	return out, nil
}

func (h *Host) command(args []string) command {
	return command{args: args, chroot: h.root, env: []string{"HOME=/root", "NIX_REMOTE=daemon"}}
}

// WriteFile writes a file on the host, and makes its directory.
func (h *Host) WriteFile(name, text string) error {
	c := h.command([]string{"sh", "-c", `mkdir -p "$(dirname "$0")" && cat > "$0"`, name})
	c.stdin = strings.NewReader(text)
	_, err := h.ns.run(context.Background(), c)
	return err
}

// ReadFile reads a file on the host.
func (h *Host) ReadFile(name string) (string, error) {
	return h.Run(context.Background(), "cat", name)
}

// logFile is where the output of a process of this host goes.
func (h *Host) logFile(process string) string {
	return filepath.Join(h.lan.dir, "logs", h.Name+"-"+strings.ReplaceAll(process, "/", "-")+".log")
}
