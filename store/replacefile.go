package store

import (
	"errors"
	"os"
	"path/filepath"
)

// ReplaceFile writes text beside a file and renames it, so that the file is whole whenever the power goes. Its mode is
// 0600.
func ReplaceFile(name string, text []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+"-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}
