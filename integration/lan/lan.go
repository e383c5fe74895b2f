// Package lan makes a small network of machines on one Linux computer, for tests and benchmarks with real Nix, narbor
// and nginx. It needs root.
//
// A host is a process ID 1 with network, mount, PID and UTS namespaces of its own. Its root directory is a tmpfs
// with the computer's /usr bound read-only; /nix, /etc/nix, /root, /run, /tmp and /var are its own. Its eth0 ends
// at a bridge that lives in a network namespace of its own too, so neither the computer's network nor its /nix is
// touched, and no name on it is taken.
//
// Nothing survives: every process ID 1 waits for the end of a pipe that this process holds. When it ends, by
// Close or by any kind of death, the kernel ends all processes of the namespaces and unmounts what they mounted.
package lan

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
)

// A LAN is one Ethernet segment. Its methods must not be called concurrently; those of its hosts may be.
type LAN struct {
	dir    string // logs, mount points
	bridge *namespace
	hosts  []*Host
	added  int // number of hosts ever added, for unique names and addresses
	closed bool
}

// New makes a LAN without hosts. It keeps logs in dir, which must exist; the caller removes it after Close.
func New(dir string) (*LAN, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("a LAN of namespaces needs root")
	}
	if err := os.MkdirAll(filepath.Join(dir, "logs"), 0o755); err != nil {
		return nil, err
	}
	bridge, err := newNamespace(netOnly)
	if err != nil {
		return nil, fmt.Errorf("bridge: %w", err)
	}
	l := &LAN{dir: dir, bridge: bridge}
	// Without snooping, as on a cheap switch: multicast goes everywhere.
	if err := l.ip("link", "add", "br0", "up", "type", "bridge", "mcast_snooping", "0"); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// ip runs the ip command beside the bridge.
func (l *LAN) ip(args ...string) error {
	_, err := l.bridge.run(context.Background(), command{args: append([]string{"ip"}, args...)})
	return err
}

// Close ends all hosts and everything that runs on them. Closing again does nothing.
func (l *LAN) Close() error {
	if l.closed {
		return nil
	}
	l.closed = true
	var errs []error
	for _, h := range l.hosts {
		errs = append(errs, h.close())
	}
	return errors.Join(append(errs, l.bridge.close())...)
}

// Remove ends one host.
func (l *LAN) Remove(h *Host) error {
	l.hosts = slices.DeleteFunc(l.hosts, func(o *Host) bool { return o == h })
	return h.close()
}

// Hosts returns the hosts in the order in which they were added.
func (l *LAN) Hosts() []*Host { return l.hosts }

// Logs returns the files that the hosts' processes write to.
func (l *LAN) Logs() ([]string, error) { return filepath.Glob(filepath.Join(l.dir, "logs", "*")) }

// plug connects a host to the bridge.
func (l *LAN) plug(h *Host) error {
	pid := strconv.Itoa(h.ns.pid())
	err := l.ip("link", "add", h.port, "master", "br0", "up", "type", "veth", "peer", "name", "eth0", "netns", pid)
	if err != nil {
		return err
	}
	for _, args := range [][]string{
		{"link", "set", "lo", "up"},
		{"addr", "add", h.Addr4.String() + "/24", "dev", "eth0"},
		{"addr", "add", h.Addr6.String() + "/64", "dev", "eth0", "nodad"},
		{"link", "set", "eth0", "up"},
		{"route", "add", "224.0.0.0/4", "dev", "eth0"},
	} {
		if _, err := h.Run(context.Background(), "ip", args...); err != nil {
			return err
		}
	}
	return nil
}

func addr4(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 62, 72, byte(n)}) }

func addr6(n int) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x62, 2: 0x72, 15: byte(n)})
}
