package statefile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// Open opens a regular file. It does not wait for a writer should the file be a pipe. An error names the file. The
// FileInfo is that of the opened file, so permissions checked by it are those of the text that is read. Links are
// followed.
func Open(file string) (*os.File, fs.FileInfo, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", file)
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, st, nil
}

// ReadText reads a regular file of at most limit bytes, as [Open] opens it. A longer file is an error, not cut.
func ReadText(file string, limit int64) ([]byte, fs.FileInfo, error) {
	f, st, err := Open(file)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(text)) > limit {
		err = fmt.Errorf("%s is longer than %d bytes", file, limit)
	}
	return text, st, err
}
