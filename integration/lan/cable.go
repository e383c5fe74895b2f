package lan

import (
	"context"
	"fmt"
	"strconv"
)

// Shape limits the host's link to a number of Mbit/s in each direction; 0 is no limit.
func (h *Host) Shape(mbit int) error {
	tc := func(dev string) []string {
		if mbit == 0 {
			return []string{"tc", "qdisc", "delete", "dev", dev, "root"}
		}
		// The burst is what passes in 2 ms, and at least one segmented packet of 64 KiB.
		burst := max(mbit*250, 96<<10)
		return []string{"tc", "qdisc", "replace", "dev", dev, "root", "tbf", "rate", fmt.Sprintf("%dmbit", mbit),
			"burst", fmt.Sprint(burst), "latency", "50ms"}
	}
	ctx := context.Background()
	if _, err := h.lan.bridge.run(ctx, command{args: tc(h.port)}); err != nil {
		return fmt.Errorf("%s: %w", h.Name, err)
	}
	args := tc("eth0")
	_, err := h.Run(ctx, args[0], args[1:]...)
	return err
}

// Connect gives a host of another LAN a second interface, eth1, on this LAN. Its only address is the link-local one
// that the kernel assigns.
func (l *LAN) Connect(h *Host) error {
	err := l.ip("link", "add", "second"+h.port, "master", "br0", "up",
		"type", "veth", "peer", "name", "eth1", "netns", strconv.Itoa(h.ns.pid()))
	if err != nil {
		return err
	}
	_, err = h.Run(context.Background(), "ip", "link", "set", "eth1", "up")
	return err
}

// Unplug pulls the host's cable.
func (h *Host) Unplug() error { return h.lan.ip("link", "set", h.port, "down") }

// Plug puts the host's cable back.
func (h *Host) Plug() error { return h.lan.ip("link", "set", h.port, "up") }

// SetInterface takes the host's interface down or up, as its administrator would. Down removes its addresses, unlike
// [Host.Unplug]; up adds them again.
func (h *Host) SetInterface(up bool) error {
	if !up {
		_, err := h.Run(context.Background(), "ip", "link", "set", "eth0", "down")
		return err
	}
	script := fmt.Sprintf("ip link set eth0 up && ip addr replace %s/24 dev eth0 && ip addr replace %s/64 dev eth0 nodad && "+
		"ip route replace 224.0.0.0/4 dev eth0", h.Addr4, h.Addr6)
	_, err := h.Run(context.Background(), "sh", "-c", script)
	return err
}

// Drop adds an nftables rule for packets that the host receives, such as "tcp dport 6273 drop".
func (h *Host) Drop(rule string) error {
	script := "add table inet lan; add chain inet lan in { type filter hook input priority 0; }; add rule inet lan in " + rule
	_, err := h.Run(context.Background(), "nft", script)
	return err
}

// Readdress replaces the host's addresses by others, which end with n.
func (h *Host) Readdress(n byte) error {
	script := fmt.Sprintf("ip addr flush dev eth0 scope global && ip addr add %s/24 dev eth0 && "+
		"ip addr add %s/64 dev eth0 nodad && ip route replace 224.0.0.0/4 dev eth0", addr4(int(n)), addr6(int(n)))
	_, err := h.Run(context.Background(), "sh", "-c", script)
	return err
}
