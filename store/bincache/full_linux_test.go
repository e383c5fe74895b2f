package bincache_test

import (
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"

	"errors"
	"testing"

	"narbor/store"
	"narbor/store/bincache"
)

// onTmpfs runs the calling test again, in a process with a mount namespace of its own, with a tmpfs of that many bytes
// on the directory that it returns there. In the calling process it returns "" when that test has ended.
func onTmpfs(t *testing.T, bytes string) (dir string) {
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
		needs(t, "root mounts a tmpfs for this test")
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), variable+"="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("on a tmpfs of %s bytes: %v\n%s", bytes, err, out)
	}
	return ""
}

// A compressed NAR that unpacks to more than it should ends there, and not when the disk is full.
func TestCacheUnpacksNoBomb(t *testing.T) {
	dir := onTmpfs(t, "285212672") // 272 MiB, of which 256 are left free
	if dir == "" {
		return
	}
	_, info, cache := cacheOf(t, "zstd", 1<<20, packZstd(t, make([]byte, 300<<20)))
	c, err := bincache.Open(cache, dir)
	if err != nil {
		t.Fatal(err)
	}
	if nar, err := c.NAR(t.Context(), info); !errors.Is(err, store.ErrCorrupt) || errors.Is(err, store.ErrNoSpace) {
		t.Errorf("NAR = %v, %v, want ErrCorrupt", nar, err)
	}
	_, info, cache = cacheOf(t, "zstd", 20<<20, packZstd(t, make([]byte, 20<<20)))
	if c, err = bincache.Open(cache, dir); err != nil {
		t.Fatal(err)
	}
	if nar, err := c.NAR(t.Context(), info); !errors.Is(err, store.ErrNoSpace) {
		t.Errorf("NAR that does not fit = %v, %v, want ErrNoSpace", nar, err)
	}
}
