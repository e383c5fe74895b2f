package integration_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"narbor/integration/lan"
)

// A network that NetworkManager takes for metered is left alone, and used again once it is not.
func TestBesideNetworkManager(t *testing.T) {
	w := newWorld(t)
	dir, err := lan.Unpack(w.ctx, "network-manager", "libnm0", "libndp0", "libjansson4", "libpsl5", "libcurl3-gnutls")
	if err != nil {
		unable(t, err.Error())
	}
	libs, err := filepath.Glob(filepath.Join(dir, "usr/lib/*/libnm.so.0"))
	if err != nil || len(libs) != 1 {
		t.Fatalf("libnm.so.0 is at %q, %v", libs, err)
	}
	lib, err := filepath.Rel(dir, filepath.Dir(libs[0]))
	w.must(err)
	env := "LD_LIBRARY_PATH=/srv/nm/" + lib

	alice := w.host(lan.HostConfig{Name: "alice", Binds: map[string]string{"srv/nm": dir}})
	bob := w.host(lan.HostConfig{Name: "bob"})
	w.systemBus(alice)
	profile := fmt.Sprintf("[connection]\nid=home\ntype=ethernet\ninterface-name=eth0\n"+
		"metered=1\n[ipv4]\nmethod=manual\naddress1=%s/24\n[ipv6]\nmethod=link-local\n", alice.Addr4)
	w.must(alice.WriteFile("/etc/NetworkManager/system-connections/home.nmconnection", profile))
	w.must(alice.WriteFile("/etc/NetworkManager/NetworkManager.conf", "[main]\nplugins=keyfile\n"))
	// With /sys read-only it does not wait for udev, which is not here.
	w.shell(alice, "chmod 600 /etc/NetworkManager/system-connections/* && mkdir -p /var/lib/NetworkManager /run/NetworkManager && mount "+
		"-o remount,ro /sys")
	_, err = alice.StartDaemon("env", env, "/srv/nm/usr/sbin/NetworkManager", "--no-daemon")
	w.must(err)
	nmcli := func(args ...string) (string, error) {
		return alice.Run(w.ctx, "env", append([]string{env, "/srv/nm/usr/bin/nmcli"}, args...)...)
	}
	w.await(alice, "NetworkManager has brought eth0 up", func() bool {
		_, err := nmcli("connection", "up", "home")
		return err == nil
	})

	w.start(alice)
	w.start(bob)
	w.await(alice, "eth0 is ignored as metered", func() bool {
		return strings.Contains(w.shell(alice, narbor+" status || [ $? = 4 ]"), "eth0: metered")
	})
	w.until(alice, "was without a neighbour on a metered network", func(s lan.Status) bool { return len(s.Neighbours) == 0 })
	for _, args := range [][]string{{"connection", "modify", "home", "connection.metered", "no"}, {"connection", "up", "home"}} {
		_, err := nmcli(args...)
		w.must(err)
	}
	w.neighbours(alice, 1)
}
