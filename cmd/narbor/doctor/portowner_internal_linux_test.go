package doctor

import (
	"net"
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestPortOwnersAreThoseOfTheThreadsNamespace runs on a thread with a network namespace of its own.
func TestPortOwnersAreThoseOfTheThreadsNamespace(t *testing.T) {
	result := make(chan string)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		result <- ownersInNamespace()
	}()
	switch got := <-result; {
	case strings.HasPrefix(got, "skip: "):
		if os.Getenv("CI") == "true" {
			t.Fatal(got)
		}
		t.Skip(got)
	case got != "":
		t.Error(got)
	}
}

func ownersInNamespace() string {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return "skip: network namespaces need root: " + err.Error()
	}
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		return err.Error()
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	if owners := portOwners(port); len(owners) != 1 || owners[0].pid != os.Getpid() {
		return "portOwners does not find this process"
	}
	return ""
}
