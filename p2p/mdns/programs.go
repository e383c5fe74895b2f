package mdns

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// OtherPrograms returns which other programs on this machine have UDP port 5353 open, such as "avahi-daemon" or
// "systemd-resolve", sorted; "another program" stands for those that this process may not look into. narbor itself does
// not count, whichever process it is. The port can be shared; but a program that does not share it, or takes unicast
// answers for itself, is worth naming when neighbours are not found. Where there is no /proc, the result is empty.
func OtherPrograms() []string { return otherPrograms("/proc", "narbor") }

func otherPrograms(proc, self string) []string {
	sockets := make(map[string]string) // inode to user
	for _, table := range []string{"udp", "udp6"} {
		socketsAt(filepath.Join(proc, "self/net", table), udpPort, sockets)
	}
	if len(sockets) == 0 {
		return nil
	}
	var names []string
	own := make(map[string]bool) // users that run narbor
	processes, _ := filepath.Glob(filepath.Join(proc, "[0-9]*"))
	for _, dir := range processes {
		comm, err := os.ReadFile(filepath.Join(dir, "comm"))
		if err != nil {
			continue // it has ended
		}
		name := strings.TrimSpace(string(comm))
		if st, err := os.Stat(dir); err == nil && name == self {
			if sys, ok := st.Sys().(*syscall.Stat_t); ok {
				own[fmt.Sprint(sys.Uid)] = true
			}
		}
		fds, _ := filepath.Glob(filepath.Join(dir, "fd", "*"))
		for _, fd := range fds {
			link, _ := os.Readlink(fd)
			inode := strings.TrimSuffix(strings.TrimPrefix(link, "socket:["), "]")
			if _, ok := sockets[inode]; ok {
				delete(sockets, inode)
				if name != self {
					names = append(names, name)
				}
			}
		}
	}
	for _, user := range sockets {
		if !own[user] {
			names = append(names, "another program")
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// socketsAt adds the inodes of the sockets with a local port in one of the kernel's tables, with the IDs of their
// users.
func socketsAt(table string, port int, sockets map[string]string) {
	f, err := os.Open(table)
	if err != nil {
		return
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) > 9 && strings.HasSuffix(fields[1], fmt.Sprintf(":%04X", port)) {
			sockets[fields[9]] = fields[7]
		}
	}
}
