package lan

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// guestModules returns the modules for QEMU's network card, in load order.
func guestModules() []string {
	return []string{"virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci",
		"failover", "net_failover", "virtio_net"}
}

// vsockModules returns the vsock modules, which scripts load in this order: the first two always, and then those
// for a guest that has a host, for one that is a host, or for one that is both.
func vsockModules() []string {
	return []string{"vsock", "vmw_vsock_virtio_transport_common", "vmw_vsock_virtio_transport",
		"vhost_iotlb", "vhost", "vhost_vsock", "vsock_loopback"}
}

// guestInit is the guest's first process. It runs the script from the second archive and powers off.
const guestInit = `#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin:/usr/bin HOME=/root
mkdir -p /proc /sys /dev /tmp /run /root /var
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp
for m in /modules/*; do insmod "$m" || echo "guest: $m does not load"; done
ip link set lo up
ip link set eth0 up
. /script
poweroff -f
`

// writeGuest writes the initial file system of a guest: Debian's busybox and Nix, the kernel's modules, and additional
// files, by path in the guest with their path on this computer. Programs in bin get their libraries.
func writeGuest(ctx context.Context, name, kernel string, files map[string]string) error {
	all := map[string]string{"bin/busybox": "/bin/busybox", "bin/nix-store": "/usr/bin/nix-store"}
	maps.Copy(all, files)
	for place, program := range maps.Clone(all) {
		if path.Base(path.Dir(place)) != "bin" {
			continue
		}
		libs, err := libraries(ctx, program)
		if err != nil {
			return err
		}
		for _, lib := range libs {
			all[lib[1:]] = lib
		}
	}
	modules, err := findModules(kernel)
	if err != nil {
		return err
	}
	maps.Copy(all, modules)
	return writeArchive(name, all, map[string]string{
		"init":              guestInit,
		"etc/passwd":        "root:x:0:0::/root:/bin/sh\n",
		"etc/group":         "root:x:0:\n",
		"etc/nsswitch.conf": "hosts: files\n",
	})
}

// libraries returns the shared libraries of a program: none if it is linked statically.
func libraries(ctx context.Context, program string) ([]string, error) {
	out, err := exec.CommandContext(ctx, "ldd", program).Output()
	var static *exec.ExitError
	if err != nil && !errors.As(err, &static) {
		return nil, fmt.Errorf("ldd %s: %w", program, err)
	}
	var libs []string
	for line := range strings.Lines(string(out)) {
		for word := range strings.FieldsSeq(line) {
			if strings.HasPrefix(word, "/") {
				libs = append(libs, word)
			}
		}
	}
	return libs, nil
}

// findModules returns the modules' paths, by path in the guest with the path in the unpacked kernel. The guest's names
// sort in load order. The guest loads those in modules when it starts.
func findModules(kernel string) (map[string]string, error) {
	wanted := map[string]string{}
	for i, name := range guestModules() {
		wanted[name+".ko"] = fmt.Sprintf("modules/%d-%s.ko", i, name)
	}
	for _, name := range vsockModules() {
		wanted[name+".ko"] = "vsock/" + name + ".ko"
	}
	found := map[string]string{}
	err := filepath.WalkDir(filepath.Join(kernel, "lib", "modules"), func(file string, _ fs.DirEntry, err error) error {
		if place, ok := wanted[filepath.Base(file)]; ok {
			found[place] = file
		}
		return err
	})
	if err == nil && len(found) != len(wanted) {
		err = fmt.Errorf("of the modules %v the kernel in %s has %v",
			slices.Sorted(maps.Keys(wanted)), kernel, slices.Sorted(maps.Keys(found)))
	}
	return found, err
}

// writeArchive writes a cpio archive with files from this computer and with texts, all executable. The kernel accepts
// several concatenated archives.
func writeArchive(name string, files, texts map[string]string) (err error) {
	out, err := os.Create(name)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := out.Close(); err == nil {
			err = cerr
		}
	}()
	w := bufio.NewWriter(out)
	a := archive{w: w, dirs: map[string]bool{".": true}}
	for _, file := range slices.Sorted(maps.Keys(files)) {
		content, err := os.ReadFile(files[file])
		if err != nil {
			return err
		}
		a.add(file, 0o100755, content)
	}
	for _, file := range slices.Sorted(maps.Keys(texts)) {
		a.add(file, 0o100755, []byte(texts[file]))
	}
	a.entry("TRAILER!!!", 0, nil)
	return w.Flush()
}

// An archive is one in cpio's "newc" form. Its writer keeps the first error.
type archive struct {
	w    *bufio.Writer
	dirs map[string]bool // the directories written so far
	n    int             // number of entries
}

func (a *archive) add(name string, mode uint32, content []byte) {
	var missing []string
	for dir := path.Dir(name); !a.dirs[dir]; dir = path.Dir(dir) {
		a.dirs[dir] = true
		missing = append(missing, dir)
	}
	for _, dir := range slices.Backward(missing) {
		a.entry(dir, 0o040755, nil)
	}
	a.entry(name, mode, content)
}

// entry writes a header of 13 numbers, each of eight hexadecimal digits, then name and content, each padded to four
// bytes.
func (a *archive) entry(name string, mode uint32, content []byte) {
	a.n++
	fmt.Fprintf(a.w, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		a.n, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name)+1, 0)
	a.w.WriteString(name + "\x00" + strings.Repeat("\x00", -(110+len(name)+1)&3))
	a.w.Write(content)
	a.w.WriteString(strings.Repeat("\x00", -len(content)&3))
}
