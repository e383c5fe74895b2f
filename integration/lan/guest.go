package lan

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// guestDir is the directory of the guests' image on their host.
const guestDir = "srv/guests"

// A GuestImage is an image for virtual machines: Debian's kernel, and a file system with busybox and Nix.
type GuestImage struct{ dir string }

// NewGuestImage fills a directory, which must exist. programs are added, from path in the guest to path on this
// computer.
func NewGuestImage(ctx context.Context, dir string, programs map[string]string) (*GuestImage, error) {
	kernel, err := guestKernel(ctx)
	if err != nil {
		return nil, fmt.Errorf("kernel for guests: %w", err)
	}
	images, err := filepath.Glob(filepath.Join(kernel, "boot", "vmlinuz-*"))
	if err != nil || len(images) != 1 {
		return nil, fmt.Errorf("%s has %d kernels, want one", kernel, len(images))
	}
	image, err := os.ReadFile(images[0])
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "vmlinuz"), image, 0o644); err != nil {
		return nil, err
	}
	return &GuestImage{dir}, writeGuest(ctx, filepath.Join(dir, "base.cpio"), kernel, programs)
}

// Bind returns the binds, for [HostConfig.Binds], that a host needs to run guests of this image.
func (g *GuestImage) Bind() map[string]string { return map[string]string{guestDir: g.dir} }

// guestKernel returns a directory with Debian's kernel for virtual machines, unpacked.
func guestKernel(ctx context.Context) (string, error) {
	if _, err := os.Stat("/usr/bin/qemu-system-x86_64"); err != nil {
		return "", err
	}
	out, err := exec.CommandContext(ctx, "apt-cache", "depends", "linux-image-cloud-amd64").Output()
	_, rest, ok := strings.Cut(string(out), "Depends: ")
	if err != nil || !ok {
		return "", fmt.Errorf("apt-cache knows no linux-image-cloud-amd64: %w", errors.Join(err, ctx.Err()))
	}
	pkg, _, _ := strings.Cut(rest, "\n")
	return Unpack(ctx, pkg)
}

// Write writes an initial file system with which the image's kernel runs a shell script.
func (g *GuestImage) Write(name, script string) error {
	base, err := os.ReadFile(filepath.Join(g.dir, "base.cpio"))
	if err != nil {
		return err
	}
	if err := writeArchive(name, nil, map[string]string{"script": script}); err != nil {
		return err
	}
	own, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	return os.WriteFile(name, append(base, own...), 0o644)
}

// A GuestConfig describes a virtual machine.
type GuestConfig struct {
	Name   string
	Netdev string // value of QEMU's -netdev option
	Script string // shell script that the guest runs
	MiB    int    // memory; 0 is 1024
}

// StartGuest starts a virtual machine on a host that has the image. The guest runs its script, with an eth0 that is up
// but has no address, and powers off. Its console is the process's log. QEMU runs without KVM, so that a guest is slow,
// but runs on every computer.
func (h *Host) StartGuest(g *GuestImage, cfg GuestConfig) (*Process, error) {
	name := h.Name + "-" + cfg.Name
	if err := g.Write(filepath.Join(g.dir, name), cfg.Script); err != nil {
		return nil, err
	}
	return h.start(name, h.command([]string{"qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", strconv.Itoa(cmp.Or(cfg.MiB, 1024)),
		"-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot",
		"-kernel", "/" + guestDir + "/vmlinuz", "-initrd", "/" + guestDir + "/" + name,
		"-append", "console=ttyS0 quiet panic=-1 random.trust_cpu=on net.ifnames=0",
		"-netdev", cfg.Netdev + ",id=net", "-device", "virtio-net-pci,netdev=net,romfile="}))
}
