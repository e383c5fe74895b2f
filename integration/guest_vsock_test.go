package integration_test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"narbor/integration/corpus"
	"narbor/integration/lan"
)

// nestedTimeout is how long a guest of a guest may take: each instruction of its is emulated by a program that is
// emulated.
const nestedTimeout = 40 * time.Minute

// hostScript is a guest that has a path in narbor's cache directory, and a guest of its own, which it reaches by vsock
// alone.
const hostScript = `
ip addr add 10.0.2.15/24 dev eth0
ip route add default via 10.0.2.2
mkdir -p /etc/nix
echo "trusted-public-keys = $key" >/etc/nix/nix.conf
narbor run --state-dir /tmp/narbor --min-free 0 --share-key "${key%%:*}" >/tmp/log 2>&1 &
narbor wait --state-dir /tmp/narbor --for peers=1 --timeout 60s
narbor fetch --peer 10.0.2.2 --no-vsock --trusted-key "$key" --to /tmp/narbor/cache "$second" >/tmp/fetch 2>&1 || cat /tmp/fetch
for m in vsock vmw_vsock_virtio_transport_common vhost_iotlb vhost vhost_vsock; do insmod "/vsock/$m.ko"; done
qemu-system-x86_64 -accel tcg -cpu max -m 640 -nodefaults -display none -serial stdio -no-reboot -L /share \
  -kernel /inner/vmlinuz -initrd /inner/initrd -append "console=ttyS0 quiet panic=-1 random.trust_cpu=on" \
  -device vhost-vsock-pci,guest-cid=3,romfile=
tail -n 5 /tmp/log
narbor status --state-dir /tmp/narbor --json | grep '"addr"'
`

// nestedScript is the guest's guest.
const nestedScript = `
for m in vsock vmw_vsock_virtio_transport_common vmw_vsock_virtio_transport; do insmod "/vsock/$m.ko"; done
mkdir -p /etc/nix /nix/store
echo "build-users-group =
sandbox = false
substituters = http://127.0.0.1:6272
trusted-public-keys = $key" >/etc/nix/nix.conf
narbor run --state-dir /tmp/narbor --min-free 0 --share-key "${key%%:*}" >/tmp/log 2>&1 &
narbor wait --state-dir /tmp/narbor --for peers=1 --timeout 600s
for try in 1 2 3 4 5; do
  found=$(narbor status --state-dir /tmp/narbor --json | sed -n 's/^ *"\(via\|addr\)": "\(.*\)",*$/\2/p' | tr '\n' ' ')
  [ -z "$found" ] || break
done
echo "guest: host $found"
for try in 1 2 3; do
  nix-store --realise "$second" --option narinfo-cache-negative-ttl 0 >/tmp/realised 2>&1 && break
done || tail -n 30 /tmp/realised /tmp/log
echo "guest: vsock $(nix-store --query --hash "$second")"
`

// A guest without a network card, on a real hypervisor, finds the narbor of its host by vsock, and Nix substitutes from
// there. Where tests run there is no vsock for guests, so the host is a guest itself, and that is slow: this is for the
// night.
func TestGuestFindsItsHostByVsock(t *testing.T) {
	if !nightly() {
		return // TestGuestsFetchFromTheirHost has two machines in one, without a hypervisor between them
	}
	w := newWorld(t)
	w.ctx = t.Context()
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		unable(t, err.Error())
	}
	if runtime.GOARCH != "amd64" {
		unable(t, "guests have an x86-64 kernel, and this machine's programs")
	}
	c := w.corpus(corpus.First())
	_, second := guestPaths(t, c)
	settings := fmt.Sprintf("key=%s\nsecond=%s\n", corpus.PublicKey(), second.Path)

	inner := t.TempDir()
	nested, err := lan.NewGuestImage(w.ctx, inner, map[string]string{"bin/narbor": programs.dir + "/narbor"})
	w.must(err)
	w.must(nested.Write(filepath.Join(inner, "initrd"), settings+nestedScript))
	files := map[string]string{"bin/narbor": programs.dir + "/narbor", "usr/bin/qemu-system-x86_64": qemu,
		"inner/vmlinuz": filepath.Join(inner, "vmlinuz"), "inner/initrd": filepath.Join(inner, "initrd")}
	for _, pattern := range []string{"/usr/share/seabios/bios-256k.bin", "/usr/share/qemu/kvmvapic.bin",
		"/usr/share/qemu/linuxboot_dma.bin", "/usr/lib/*/qemu/accel-tcg-x86_64.so"} {
		found, err := filepath.Glob(pattern)
		if err != nil || len(found) != 1 {
			t.Fatalf("QEMU's %s: %q, %v", pattern, found, err)
		}
		place := "share/" + filepath.Base(pattern)
		if filepath.Ext(pattern) == ".so" {
			place = found[0][1:]
		}
		files[place] = found[0]
	}
	image, err := lan.NewGuestImage(w.ctx, t.TempDir(), files)
	w.must(err)
	host := w.host(lan.HostConfig{Name: "host", Nix: c.Nix, Binds: image.Bind()}, "substituters =")
	w.start(host)
	began := time.Now()
	guest, err := host.StartGuest(image, lan.GuestConfig{Name: "user", Netdev: "user", Script: settings + hostScript, MiB: 4096})
	w.must(err)
	checkGuest(t, guest, nestedTimeout, map[string]string{"host": "vsock:2:6273 vsock", "vsock": second.NarHash.String()})
	t.Logf("ended within %.0f s", time.Since(began).Seconds())
}
