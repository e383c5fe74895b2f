package lan

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Unpack returns a directory with the files of one or more Debian packages. It does not install them, because that
// would change this computer. The directory is kept below the user's cache directory.
func Unpack(ctx context.Context, packages ...string) (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(base, "narbor-unpacked", strings.Join(packages, "+"))
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), "new-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	const script = `apt-get download -qq "$@" && for p in ./*.deb; do dpkg-deb -x "$p" out; done`
	cmd := exec.CommandContext(ctx, "sh", append([]string{"-ec", script, "sh"}, packages...)...)
	cmd.Dir = tmp
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("apt-get download %s: %w\n%s", strings.Join(packages, " "), err, out)
	}
	if err := os.Rename(filepath.Join(tmp, "out"), dir); err != nil && !errors.Is(err, os.ErrExist) {
		return "", err // unless another test has made the directory meanwhile
	}
	return dir, nil
}
