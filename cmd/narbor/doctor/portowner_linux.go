package doctor

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// portOwners returns the processes that listen on a TCP port, as far as this user may see: root sees all. It reads the
// sockets of the calling thread's network namespace: /proc/net is that of the process's first thread, which stays in
// another namespace once doctor has used it for a copy of the firewall.
func portOwners(port string) []owner {
	inodes := map[string]bool{}
	for _, family := range []string{"", "6"} {
		text, err := os.ReadFile("/proc/thread-self/net/tcp" + family)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			if inode, ok := listensOn(line, port); ok {
				inodes["socket:["+inode+"]"] = true
			}
		}
	}
	if len(inodes) == 0 {
		return nil
	}
	links, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return nil
	}
	var owners []owner
	for _, link := range links {
		target, err := os.Readlink(link)
		if err != nil || !inodes[target] {
			continue
		}
		pid, err := strconv.Atoi(strings.Split(link, "/")[2])
		if err != nil || slices.ContainsFunc(owners, func(o owner) bool { return o.pid == pid }) {
			continue
		}
		owners = append(owners, owner{pid, commOf("/proc", pid)})
	}
	return owners
}

// listensOn reads a line of /proc/net/tcp: the inode of a socket that listens on the port.
func listensOn(line, port string) (inode string, ok bool) {
	const listening = "0A" // TCP_LISTEN
	f := strings.Fields(line)
	if len(f) < 10 || f[3] != listening {
		return "", false
	}
	_, hex, found := strings.Cut(f[1], ":")
	n, err := strconv.ParseUint(hex, 16, 16)
	return f[9], found && err == nil && strconv.FormatUint(n, 10) == port
}
