package mdns

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// procTwin is a /proc with these sockets, as inode and port, and these processes, as ID, name and inode.
func procTwin(t *testing.T, sockets [][2]int, processes ...[3]string) string {
	t.Helper()
	dir := t.TempDir()
	table := "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n"
	for i, s := range sockets {
		table += fmt.Sprintf("%5d: 00000000:%04X 00000000:0000 07 00000000:00000000 00:00000000 00000000  %d        0 %d 2 "+
			"0000000000000000 0\n",
			i, s[1], os.Getuid()+1, s[0])
	}
	write := func(name, text string) {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("self/net/udp", table)
	for _, p := range processes {
		write(p[0]+"/comm", p[1]+"\n")
		write(p[0]+"/fd/0", "")
		if err := os.Symlink("socket:["+p[2]+"]", filepath.Join(dir, p[0], "fd", "3")); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestOthersOnMDNS(t *testing.T) {
	for _, c := range []struct {
		about     string
		sockets   [][2]int
		processes [][3]string
		want      string
	}{
		{"no program", nil, nil, ""},
		{"narbor alone", [][2]int{{11, 5353}}, [][3]string{{"7", "narbor", "11"}}, ""},
		{"Avahi, and others elsewhere", [][2]int{{11, 5353}, {12, 5353}, {13, 53}},
			[][3]string{{"7", "narbor", "11"}, {"8", "avahi-daemon", "12"}, {"9", "dnsmasq", "13"}}, "avahi-daemon"},
		{"two", [][2]int{{11, 5353}, {12, 5353}}, [][3]string{{"7", "systemd-resolve", "11"}, {"8", "avahi-daemon", "12"}},
			"avahi-daemon, systemd-resolve"},
		{"an unknown program", [][2]int{{11, 5353}, {12, 5353}}, [][3]string{{"7", "narbor", "12"}}, "another program"},
	} {
		if got := strings.Join(otherPrograms(procTwin(t, c.sockets, c.processes...), "narbor"), ", "); got != c.want {
			t.Errorf("%s: %q, want %q", c.about, got, c.want)
		}
	}
	if got := otherPrograms(filepath.Join(t.TempDir(), "none"), "narbor"); got != nil {
		t.Errorf("without /proc: %q", got)
	}
}

// The real /proc is read: this test itself is the other program.
func TestThisProcessIsSeenOnMDNS(t *testing.T) {
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(224, 0, 0, 251), Port: udpPort})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	comm, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Skip("there is no /proc")
	}
	if got := OtherPrograms(); !slices.Contains(got, strings.TrimSpace(string(comm))) {
		t.Errorf("OtherPrograms() = %q, want %q among them", got, comm)
	}
}
