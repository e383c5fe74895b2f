package lan

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// guestDir is where a host that has guests has the directory of their image.
const guestDir = "srv/guests"

// A GuestImage is what virtual machines start from: Debian's kernel, and a file system with busybox and Nix.
type GuestImage struct{ dir string }

// NewGuestImage fills a directory, which must exist. programs are added, from path in the guest to path on this computer.
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

// Bind is what a host needs among its binds to have guests of this image.
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

// StartGuest starts a virtual machine on a host that has the image, with a network card that QEMU's -netdev describes. It
// runs a shell script, in which eth0 is up but has no address, and ends. Its console is the process's log. There is no KVM:
// it is as slow as an emulated machine is, on every computer.
func (h *Host) StartGuest(g *GuestImage, name, netdev, script string) (*Process, error) {
	name = h.Name + "-" + name
	if err := writeArchive(filepath.Join(g.dir, name+".cpio"), nil, map[string]string{"script": script}); err != nil {
		return nil, err
	}
	return h.start(name, h.command([]string{"sh", "-c", `cd "/$1" && cat base.cpio "$2.cpio" > "/tmp/$2" &&
		exec qemu-system-x86_64 -accel tcg -cpu max -m 1024 -nodefaults -display none -serial stdio -no-reboot \
			-kernel vmlinuz -initrd "/tmp/$2" -append "console=ttyS0 quiet panic=-1 random.trust_cpu=on net.ifnames=0" \
			-netdev "$3,id=net" -device virtio-net-pci,netdev=net,romfile=`, "sh", guestDir, name, netdev}))
}
