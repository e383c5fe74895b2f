package damage

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"narbor/store"
)

// fileOf identifies the file of a path in a directory: a repair puts another in its place. It is "" if there is none to
// look at.
func fileOf(dir string, p store.Path) string {
	if dir == "" {
		return ""
	}
	st, err := os.Lstat(filepath.Join(dir, p.Base()))
	if err != nil {
		return "missing"
	}
	id := st.ModTime().UTC().String() + " " + st.Mode().String()
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		id = fmt.Sprintf("%d %s", sys.Ino, id)
	}
	return id
}

// hash reads the archive of a claim, and returns how it differs from the claim; "" if it does not. With an error,
// neither is known.
func hash(ctx context.Context, src store.Source, info store.Info) (reason string, err error) {
	nar, err := src.NAR(ctx, info)
	if err != nil {
		return unreadable(ctx, src, info, err)
	}
	defer nar.Close()
	sum := sha256.New()
	buf := make([]byte, store.BlockSize)
	for off := int64(0); off < info.NarSize; {
		p := buf[:min(int64(len(buf)), info.NarSize-off)]
		if n, err := nar.ReadAt(p, off); n < len(p) {
			return unreadable(ctx, src, info, err)
		}
		if err := ctx.Err(); err != nil {
			return "", err
		}
		sum.Write(p)
		off += int64(len(p))
	}
	if got := store.Hash(sum.Sum(nil)); got != info.NarHash {
		return fmt.Sprintf("its content has the hash %s, not %s", got, info.NarHash), nil
	}
	return "", nil
}

// unreadable returns what the error of a read says of a path: nothing, if it is not valid any more.
func unreadable(ctx context.Context, src store.Source, info store.Info, err error) (string, error) {
	now, infoErr := src.Info(ctx, info.Path.HashPart())
	if infoErr != nil || now.NarHash != info.NarHash {
		return "", errors.Join(err, infoErr)
	}
	if errors.Is(err, store.ErrCorrupt) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.EIO) {
		return err.Error(), nil
	}
	return "", err
}
