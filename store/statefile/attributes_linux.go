package statefile

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// copyAttributes gives to the extended attributes of a file: access control lists and labels.
func copyAttributes(file string, to *os.File) error {
	names := make([]byte, 64<<10) // the kernel's own limit
	n, err := unix.Llistxattr(file, names)
	if errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("attributes of %s: %w", file, err)
	}
	value := make([]byte, 64<<10)
	for name := range strings.SplitSeq(strings.TrimRight(string(names[:n]), "\x00"), "\x00") {
		if name == "" {
			continue
		}
		n, err := unix.Lgetxattr(file, name, value)
		if err == nil {
			err = unix.Fsetxattr(int(to.Fd()), name, value[:n], 0)
		}
		if err != nil {
			return fmt.Errorf("%s would lose the attribute %s: %w", file, name, err)
		}
	}
	return nil
}
