package integration_test

import (
	"fmt"
	"maps"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"narbor/integration/corpus"
	"narbor/integration/lan"
	"narbor/store"
)

// guestTimeout is how long a guest may take. It needs half a minute beside another, on a machine with nothing else to
// do.
const guestTimeout = 180 * time.Second

// plainScript is a guest without narbor, which has a host at $host: Nix takes that for a binary cache. Then it asks for
// what it must not have.
const plainScript = `
mkdir -p /etc/nix /nix/store
realise() {
  echo "build-users-group =
sandbox = false
substituters = $1
trusted-public-keys = $key" >/etc/nix/nix.conf
  nix-store --realise "$2" >/tmp/realised 2>&1 || tail -n 30 /tmp/realised /tmp/log
  nix-store --query --hash "$2"
}
echo "guest: plain $(realise "http://$host:6272" "$first")"
for what in / /api/v1/status /metrics; do
  echo "guest: status $what $(printf 'GET %s HTTP/1.1\r\nHost: %s:6272\r\nConnection: close\r\n\r\n' "$what" "$host" |
    nc -w 30 "$host" 6272 | head -n 1 | cut -d' ' -f2)"
done
`

// narborScript is a guest with narbor, which finds the host, and through which Nix gets a path from there.
const narborScript = `
narbor run --state-dir /tmp/narbor --min-free 0 --share-key "${key%%:*}" >/tmp/log 2>&1 &
status() { narbor status --state-dir /tmp/narbor --json; }
narbor wait --state-dir /tmp/narbor --for peers=1 --timeout 60s
echo "guest: found $(status | sed -n 's/^ *"\(via\|addr\)": "\(.*\)",*$/\2/p' | tr '\n' ' ')"
echo "guest: through $(realise http://127.0.0.1:6272 "$second")"
`

// vsockScript makes two machines of a guest with narbor, one of which has no network: only vsock leads from it to the
// other, which it takes for its host. The kernel's loopback of vsock stands for a hypervisor, of which there is none in
// a guest.
const vsockScript = `
for m in vsock vmw_vsock_virtio_transport_common vsock_loopback; do insmod "/vsock/$m.ko" || echo "guest: $m does not load"; done
ip addr add 127.0.0.2/8 dev lo # narbor looks at once, and not within a minute
narbor fetch --peer "$host" --no-vsock --trusted-key "$key" --to /tmp/narbor/cache "$second" >/tmp/log 2>&1 || cat /tmp/log
for d in bin lib lib64 usr etc proc sys dev; do
  mkdir -p "/b/$d"
  mount --bind "/$d" "/b/$d"
done
mkdir -p /b/tmp /b/root /b/nix/store
alone() { chroot /b narbor "$@"; }
run="run --state-dir /tmp/narbor --min-free 0 --port 6274 --listen 127.0.0.1:7272 --no-mdns --no-interface *"
set -f # there is no file that * could mean
chroot /b narbor $run --no-vsock >/tmp/log 2>&1 &
alone wait --state-dir /tmp/narbor --for settled --timeout 60s && sleep 3 && alone status --state-dir /tmp/narbor --json >/tmp/status
echo "guest: without $(grep -c '"neighbours": \[\]' /tmp/status)"
kill $!
wait $!
chroot /b narbor $run >/tmp/log 2>&1 &
alone wait --state-dir /tmp/narbor --for peers=1 --timeout 60s
echo "guest: host $(alone status --state-dir /tmp/narbor --json | sed -n 's/^ *"\(via\|addr\)": "\(.*\)",*$/\2/p' | tr '\n' ' ')"
echo "guest: vsock $(chroot /b nix-store --realise "$second" --option substituters http://127.0.0.1:7272 >/tmp/realised 2>&1 ||
  tail -n 30 /tmp/realised /tmp/log; chroot /b nix-store --query --hash "$second")"
`

// Two guests on one host, at once: one behind QEMU's user networking, for which the host is 10.0.2.2, and one on a
// bridge. Both find the host by themselves if they have narbor, and need none to use the host's as a plain binary
// cache.
func TestGuestsFetchFromTheirHost(t *testing.T) {
	w := newWorld(t)
	for _, tool := range []string{"qemu-system-x86_64", "ldd", "busybox"} {
		if _, err := exec.LookPath(tool); err != nil {
			unable(t, err.Error())
		}
	}
	if runtime.GOARCH != "amd64" {
		unable(t, "guests have an x86-64 kernel, and this machine's programs")
	}
	c := w.corpus(corpus.First())
	image, err := lan.NewGuestImage(w.ctx, t.TempDir(), map[string]string{"bin/narbor": programs.dir + "/narbor"})
	w.must(err)
	host := w.host(lan.HostConfig{Name: "host", Nix: c.Nix, Binds: image.Bind(), Listen: []string{"192.168.122.1:6272"}}, "substituters =")
	for _, cmd := range []string{"link add virbr0 type bridge", "addr add 192.168.122.1/24 dev virbr0", "link set virbr0 up",
		"tuntap add tap0 mode tap", "link set tap0 master virbr0", "link set tap0 up"} {
		_, err := host.Run(w.ctx, "ip", strings.Fields(cmd)...)
		w.must(err)
	}
	w.start(host)

	first, second := guestPaths(t, c)
	began := time.Now()
	settings := fmt.Sprintf("key=%s\nfirst=%s\nsecond=%s\n", corpus.PublicKey(), first.Path, second.Path)
	user, err := host.StartGuest(image, lan.GuestConfig{Name: "user", Netdev: "user",
		Script: settings + "ip addr add 10.0.2.15/24 dev eth0\nip route add default via 10.0.2.2\nhost=10.0.2.2\n" + plainScript +
			narborScript + vsockScript})
	w.must(err)
	bridged, err := host.StartGuest(image, lan.GuestConfig{Name: "bridged", Netdev: "tap,ifname=tap0,script=no,downscript=no",
		Script: settings + "ip addr add 192.168.122.2/24 dev eth0\nhost=192.168.122.1\n" + plainScript + narborScript})
	w.must(err)
	for _, g := range []struct {
		name  string
		guest *lan.Process
		want  map[string]string
	}{
		{"user networking, and vsock", user, map[string]string{"found": "/ip4/10.0.2.2/tcp/6273 gateway", "without": "1",
			"host": "vsock:2:6273 vsock", "vsock": second.NarHash.String()}},
		{"bridge", bridged, map[string]string{"found": "/ip4/192.168.122.1/tcp/"}},
	} {
		maps.Copy(g.want, map[string]string{"plain": first.NarHash.String(), "through": second.NarHash.String(), "/": "403",
			"/api/v1/status": "403", "/metrics": "403"})
		t.Run(g.name, func(t *testing.T) { checkGuest(t, g.guest, guestTimeout, g.want) })
		t.Logf("%s: ended within %.0f s", g.name, time.Since(began).Seconds())
	}
}

// guestPaths are the paths that the guests fetch: archives of some blocks, which refer to nothing.
func guestPaths(t *testing.T, c *corpus.Corpus) (first, second store.Info) {
	var leaves []store.Info
	for _, info := range c.Infos {
		if info.NarSize > 1<<20 && info.NarSize < 4<<20 && len(references(info)) == 0 {
			leaves = append(leaves, info)
		}
	}
	if len(leaves) < 2 {
		t.Fatalf("the corpus has %d paths of 1 to 4 MiB that refer to nothing, want two", len(leaves))
	}
	return leaves[0], leaves[1]
}

// checkGuest waits for the guest's end, and reads what it said.
func checkGuest(t *testing.T, guest *lan.Process, patience time.Duration, want map[string]string) {
	select {
	case <-guest.Done():
	case <-time.After(lan.AtMost(patience)):
		t.Errorf("the guest has not ended after %s", patience)
	}
	log, err := guest.Log()
	if err != nil {
		t.Fatal(err)
	}
	said := map[string]string{}
	for line := range strings.Lines(log) {
		if _, rest, ok := strings.Cut(line, "guest: "); ok {
			key, value, _ := strings.Cut(strings.TrimSpace(rest), " ")
			if key == "status" {
				key, value, _ = strings.Cut(value, " ")
			}
			said[key] = value
		}
	}
	t.Logf("said %q", said)
	for key, want := range want {
		if !strings.HasPrefix(said[key], want) {
			t.Errorf("%s: %q, want %q", key, said[key], want)
		}
	}
	if t.Failed() {
		t.Logf("console:\n%s", log)
	}
}
