package storetest

import (
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// OnTmpfs runs the calling test again, in a process with a mount namespace of its own, with a tmpfs of that many bytes
// on the directory that it returns there. In the calling process it returns "" when that test has ended.
func OnTmpfs(t *testing.T, bytes string) (dir string) {
	t.Helper()
	const variable = "NARBOR_TEST_TMPFS"
	if dir := os.Getenv(variable); dir != "" {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+bytes); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	if os.Getuid() != 0 {
		Needs(t, "root mounts a tmpfs for this test")
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), variable+"="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("on a tmpfs of %s bytes: %v\n%s", bytes, err, out)
	}
	return ""
}
