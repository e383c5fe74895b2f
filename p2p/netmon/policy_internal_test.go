package netmon

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"go.uber.org/zap"
)

const etherFlags = net.FlagUp | net.FlagRunning | net.FlagBroadcast | net.FlagMulticast

func TestInterfacePolicy(t *testing.T) {
	const (
		ether = etherFlags
		p2p   = net.FlagUp | net.FlagRunning | net.FlagPointToPoint | net.FlagMulticast
	)
	pattern := func(p ...string) []string { return p }
	for _, c := range []struct {
		about string
		adapter
		alone       bool // no card in the namespace
		allow, deny []string
		want        string // how the reason begins; "" is used
	}{
		{about: "a card", adapter: adapter{name: "eth0", flags: ether, kind: "device"}},
		{about: "Wi-Fi", adapter: adapter{name: "wlp3s0", flags: ether, kind: "device"}},
		{about: "a virtual machine's card", adapter: adapter{name: "ens3", flags: ether, kind: "device"}},
		{about: "a bond", adapter: adapter{name: "bond0", flags: ether, kind: "bond"}},
		{about: "part of a bond", adapter: adapter{name: "eth1", flags: ether, kind: "device", master: "bond0"}, want: "part of bond0"},
		{about: "a VLAN", adapter: adapter{name: "eth0.7", flags: ether, kind: "vlan"}},
		{about: "a macvlan", adapter: adapter{name: "mv0", flags: ether, kind: "macvlan"}, alone: true},
		{about: "an ipvlan", adapter: adapter{name: "iv0", flags: ether, kind: "ipvlan"}, alone: true},
		{about: "loopback", adapter: adapter{name: "lo", flags: net.FlagUp | net.FlagRunning | net.FlagLoopback, kind: "device"},
			want: "loopback"},
		{about: "down", adapter: adapter{name: "eth0", flags: ether &^ net.FlagUp, kind: "device"}, want: "down"},
		{about: "cable out", adapter: adapter{name: "eth0", flags: ether &^ net.FlagRunning, kind: "device"}, want: "no carrier"},
		{about: "deaf", adapter: adapter{name: "eth0", flags: ether &^ net.FlagMulticast, kind: "device"}, want: "no multicast"},
		{about: "mobile data", adapter: adapter{name: "wwan0", flags: p2p, kind: "device"}, want: "point-to-point"},
		{about: "a modem", adapter: adapter{name: "ppp0", flags: p2p, kind: "ppp"}, want: "tunnel (ppp"},
		{about: "metered", adapter: adapter{name: "usb0", flags: ether, kind: "device", metered: true}, want: "metered"},
		{about: "metered, and wanted", adapter: adapter{name: "usb0", flags: ether, kind: "device", metered: true}, allow: pattern("usb*")},

		{about: "WireGuard", adapter: adapter{name: "home", flags: p2p, kind: "wireguard"}, want: "tunnel (wireguard"},
		{about: "WireGuard with the way out", adapter: adapter{name: "home", flags: p2p, kind: "wireguard", route: true},
			want: "tunnel (wireguard"},
		{about: "WireGuard alone", adapter: adapter{name: "home", flags: p2p, kind: "wireguard"}, alone: true, want: "tunnel (wireguard"},
		{about: "WireGuard, wanted", adapter: adapter{name: "home", flags: p2p &^ net.FlagMulticast, kind: "wireguard"},
			allow: pattern("home")},
		{about: "OpenVPN", adapter: adapter{name: "vpn0", flags: p2p, kind: "tun"}, want: "tunnel (tun"},
		{about: "Tailscale", adapter: adapter{name: "tailscale0", flags: p2p, kind: "tun"}, want: "VPN"},
		{about: "ZeroTier, which is a tap", adapter: adapter{name: "zt5u4wv2jq", flags: ether, kind: "tap"}, want: "VPN"},
		{about: "IPIP", adapter: adapter{name: "tunl0", flags: p2p, kind: "ipip"}, want: "tunnel (ipip"},
		{about: "SIT", adapter: adapter{name: "sit1", flags: p2p, kind: "sit"}, want: "tunnel (sit"},
		{about: "GRE", adapter: adapter{name: "gre1", flags: p2p, kind: "gre"}, want: "tunnel (gre"},
		{about: "GRE with Ethernet", adapter: adapter{name: "g", flags: ether, kind: "gretap"}, want: "tunnel (gretap"},
		{about: "VTI", adapter: adapter{name: "vti0", flags: p2p, kind: "vti"}, want: "tunnel (vti"},
		{about: "XFRM", adapter: adapter{name: "ipsec0", flags: p2p, kind: "xfrm"}, want: "tunnel (xfrm"},
		{about: "an overlay", adapter: adapter{name: "flannel.1", flags: ether, kind: "vxlan"}, want: "tunnel (vxlan"},
		{about: "GENEVE", adapter: adapter{name: "g0", flags: ether, kind: "geneve"}, want: "tunnel (geneve"},

		{about: "a dummy", adapter: adapter{name: "dummy0", flags: ether, kind: "dummy"}, want: "no machine is behind it"},
		{about: "an ifb", adapter: adapter{name: "ifb0", flags: ether, kind: "ifb"}, want: "no machine is behind it"},
		{about: "a macvtap", adapter: adapter{name: "macvtap0", flags: ether, kind: "macvtap"}, want: "belongs to a virtual machine"},
		{about: "a guest's tap", adapter: adapter{name: "vm-web", flags: ether, kind: "tap"}},
		{about: "a guest's tap in a bridge", adapter: adapter{name: "vnet3", flags: ether, kind: "tap", master: "virbr0"},
			want: "part of virbr0"},

		{about: "libvirt's", adapter: adapter{name: "virbr0", flags: ether, kind: "bridge", members: []string{"tap"}}},
		{about: "libvirt's without guests", adapter: adapter{name: "virbr0", flags: ether &^ net.FlagRunning, kind: "bridge"},
			want: "no carrier"},
		{about: "Proxmox's with containers", adapter: adapter{name: "vmbr1", flags: ether, kind: "bridge", members: []string{"veth"}}},
		{about: "microvm's", adapter: adapter{name: "microvm", flags: ether, kind: "bridge", members: []string{"tap", "tap"}}},
		{about: "a LAN's with containers", adapter: adapter{name: "br0", flags: ether, kind: "bridge",
			members: []string{"veth", "device"}}},
		{about: "a LAN's on a bond", adapter: adapter{name: "br0", flags: ether, kind: "bridge", members: []string{"bond"}}},
		{about: "OpenWrt's", adapter: adapter{name: "br-lan", flags: ether, kind: "bridge", members: []string{"device", "device"}}},
		{about: "a guest's, by its member", adapter: adapter{name: "guests", flags: ether, kind: "bridge",
			members: []string{"veth", "tap"}}},
		{about: "containers'", adapter: adapter{name: "br0", flags: ether, kind: "bridge", members: []string{"veth", "veth"}},
			want: "bridge of containers"},
		{about: "containers' with an overlay", adapter: adapter{name: "br0", flags: ether, kind: "bridge",
			members: []string{"veth", "vxlan"}}, want: "bridge of containers"},
		{about: "containers' with the way out", adapter: adapter{name: "br0", flags: ether, kind: "bridge", members: []string{"veth"},
			route: true}},
		{about: "containers' and no card", adapter: adapter{name: "br0", flags: ether, kind: "bridge", members: []string{"veth"}},
			alone: true},
		{about: "Docker's", adapter: adapter{name: "docker0", flags: ether, kind: "bridge", members: []string{"veth"}},
			want: "containers, by its name"},
		{about: "Docker's and no card", adapter: adapter{name: "docker0", flags: ether, kind: "bridge", members: []string{"veth"}},
			alone: true, want: "containers, by its name"},
		{about: "Docker's second", adapter: adapter{name: "br-0123456789ab", flags: ether, kind: "bridge", members: []string{"veth"}},
			want: "containers, by its name"},
		{about: "Docker's, wanted", adapter: adapter{name: "docker0", flags: ether, kind: "bridge"}, allow: pattern("docker0")},
		{about: "Podman's", adapter: adapter{name: "podman1", flags: ether, kind: "bridge", members: []string{"veth"}},
			want: "containers, by its name"},
		{about: "CNI's", adapter: adapter{name: "cni0", flags: ether, kind: "bridge", members: []string{"veth"}},
			want: "containers, by its name"},

		{about: "a container's end in a bridge", adapter: adapter{name: "veth12", flags: ether, kind: "veth", master: "docker0"},
			want: "part of docker0"},
		{about: "a pod's end", adapter: adapter{name: "cali1234", flags: ether, kind: "veth"}, want: "leads to a container"},
		{about: "a NixOS container's end", adapter: adapter{name: "ve-web", flags: ether, kind: "veth"}, want: "leads to a container"},
		{about: "in a container", adapter: adapter{name: "eth0", flags: ether, kind: "veth"}, alone: true},
		{about: "in a container with another card", adapter: adapter{name: "eth0", flags: ether, kind: "veth", route: true}},
		{about: "in a container with netkit", adapter: adapter{name: "eth0", flags: ether, kind: "netkit"}, alone: true},
		{about: "a container's end, wanted", adapter: adapter{name: "ve-web", flags: ether, kind: "veth"}, allow: pattern("ve-*")},

		{about: "another than wanted", adapter: adapter{name: "wlan0", flags: ether, kind: "device"}, allow: pattern("eth*"),
			want: "not among"},
		{about: "denied", adapter: adapter{name: "eth0", flags: ether, kind: "device"}, deny: pattern("eth*"), want: "excluded"},
		{about: "wanted and denied", adapter: adapter{name: "eth1", flags: ether, kind: "device"}, allow: pattern("eth*"),
			deny: pattern("eth1"), want: "excluded"},
		{about: "wanted and down", adapter: adapter{name: "eth1", flags: 0, kind: "device"}, allow: pattern("eth*"), want: "down"},
		{about: "loopback, wanted", adapter: adapter{name: "lo", flags: net.FlagUp | net.FlagRunning | net.FlagLoopback},
			allow: pattern("lo"), want: "loopback"},

		{about: "of unknown kind", adapter: adapter{name: "en0", flags: ether}},
		{about: "of unknown kind, by name", adapter: adapter{name: "br-3f8a", flags: ether}, want: "container or tunnel"},
		{about: "Apple's radio", adapter: adapter{name: "awdl0", flags: ether}, want: "container or tunnel"},
	} {
		p, err := NewPolicy(c.allow, c.deny)
		if err != nil {
			t.Fatal(err)
		}
		got := p.refuse(c.adapter, !c.alone)
		if (got == "") != (c.want == "") || !strings.HasPrefix(got, c.want) {
			t.Errorf("%s: refuse(%+v) = %q, want %q", c.about, c.adapter, got, c.want)
		}
	}
	if _, err := NewPolicy(nil, pattern("eth[")); err == nil {
		t.Error("newInterfacePolicy(bad pattern) = nil, want an error")
	}
}

// networkManagerTwin answers as NetworkManager does.
type networkManagerTwin struct {
	devices map[dbus.ObjectPath]map[string]dbus.Variant
}

func (n networkManagerTwin) GetDevices() ([]dbus.ObjectPath, *dbus.Error) {
	var out []dbus.ObjectPath
	for path := range n.devices {
		out = append(out, path)
	}
	return append(out, "/gone"), nil
}

type deviceTwin map[string]dbus.Variant

func (d deviceTwin) GetAll(string) (map[string]dbus.Variant, *dbus.Error) { return d, nil }

func TestMeteredInterfacesAreKnown(t *testing.T) {
	program, err := exec.LookPath("dbus-daemon")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	bus := "unix:path=" + t.TempDir() + "/bus"
	daemon := exec.Command(program, "--session", "--nofork", "--nopidfile", "--print-address", "--address="+bus)
	out, err := daemon.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	defer daemon.Wait()
	defer daemon.Process.Kill()
	if _, err := out.Read(make([]byte, 1)); err != nil { // it listens when it has said so
		t.Fatal(err)
	}
	m := newMeter(bus)
	if got, err := m.ask(t.Context()); err == nil || len(got) > 0 {
		t.Errorf("ask without NetworkManager = %v, %v, want an error", got, err)
	}

	conn, err := dbus.Connect(bus)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	twin := networkManagerTwin{make(map[dbus.ObjectPath]map[string]dbus.Variant)}
	for i, name := range []string{"unknown0", "yes0", "no0", "guess0", "notguess0"} {
		path := dbus.ObjectPath(fmt.Sprintf("/org/freedesktop/NetworkManager/Devices/%d", i))
		twin.devices[path] = map[string]dbus.Variant{"Interface": dbus.MakeVariant(name), "Metered": dbus.MakeVariant(uint32(i))}
		if err := conn.Export(deviceTwin(twin.devices[path]), path, "org.freedesktop.DBus.Properties"); err != nil {
			t.Fatal(err)
		}
	}
	if err := conn.Export(twin, "/org/freedesktop/NetworkManager", networkManager); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.RequestName(networkManager, 0); err != nil {
		t.Fatal(err)
	}
	hints := make(chan struct{}, 1)
	go m.follow(t.Context(), zap.NewNop(), hints)
	m.look()
	select {
	case <-hints:
	case <-time.After(20 * time.Second):
		t.Fatal("no hint that interfaces are metered")
	}
	got := m.names()
	if len(got) != 2 || !got["yes0"] || !got["guess0"] {
		t.Errorf("metered are %v, want yes0 and guess0", got)
	}
}

func TestNoBusMeansNotMetered(t *testing.T) {
	m := newMeter("unix:path=" + t.TempDir() + "/bus")
	start := time.Now()
	if got, err := m.ask(t.Context()); err == nil || len(got) > 0 {
		t.Errorf("ask = %v, %v, want an error", got, err)
	}
	if took := time.Since(start); took > meterTimeout+time.Second {
		t.Errorf("ask took %v", took)
	}
}
