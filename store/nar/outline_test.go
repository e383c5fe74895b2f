package nar_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"narbor/store"
	"narbor/store/nar"
	"narbor/store/storetest"
)

// contents are those of an outline, by number.
type contents []string

func (c contents) read(content uint32, p []byte, off int64) error {
	if copy(p, c[content][off:]) != len(p) {
		return io.ErrUnexpectedEOF
	}
	return nil
}

// outlineOf makes an outline of a file, symlink or directory.
func outlineOf(t *testing.T, b *nar.OutlineBuilder, c *contents, file, name string) {
	t.Helper()
	fi, err := os.Lstat(file)
	storetest.Must(t, err)
	n := uint32(len(*c))
	switch {
	case fi.IsDir():
		storetest.Must(t, b.Directory(name))
		entries, err := os.ReadDir(file)
		storetest.Must(t, err)
		for _, e := range entries {
			outlineOf(t, b, c, filepath.Join(file, e.Name()), e.Name())
		}
		storetest.Must(t, b.End())
	case fi.Mode().IsRegular():
		text, err := os.ReadFile(file)
		storetest.Must(t, err)
		*c = append(*c, string(text))
		storetest.Must(t, b.File(name, fi.Size(), fi.Mode()&0o100 != 0, n))
	default:
		target, err := os.Readlink(file)
		storetest.Must(t, err)
		*c = append(*c, target)
		storetest.Must(t, b.Symlink(name, int64(len(target)), n))
	}
}

// An outline of files on disk is the archive that a layout makes of them, at every offset.
func TestOutlineIsTheArchiveOfTheFiles(t *testing.T) {
	dir := t.TempDir()
	for name, make := range map[string]func(file string) error{
		"file":       func(f string) error { return os.WriteFile(f, []byte("hello"), 0o600) },
		"executable": func(f string) error { return os.WriteFile(f, []byte("12345678"), 0o700) },
		"symlink":    func(f string) error { return os.Symlink("to/somewhere", f) },
		"empty":      func(f string) error { return os.Mkdir(f, 0o700) },
		"tree": func(f string) error {
			return errors.Join(os.MkdirAll(f+"/a/b/c", 0o700), os.Mkdir(f+"/a/empty", 0o700), os.Mkdir(f+"/z", 0o700),
				os.WriteFile(f+"/a/b/c/deep", []byte(strings.Repeat("deep", 100)), 0o600), os.WriteFile(f+"/a.b", nil, 0o600),
				os.WriteFile(f+"/a/x", []byte("x"), 0o700), os.Symlink("a", f+"/link"), os.WriteFile(f+"/m", []byte("mm"), 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			path, err := store.ParsePathName("syd87l2rxw8cbsxmxl853h0r6pdwhwjr-" + name)
			storetest.Must(t, err)
			storetest.Must(t, make(filepath.Join(dir, path.Base())))
			var b nar.OutlineBuilder
			var c contents
			outlineOf(t, &b, &c, filepath.Join(dir, path.Base()), "")
			o, err := b.Outline()
			storetest.Must(t, err)
			tree, err := nar.NewLayouts().Open(t.Context(), dir, store.Info{Path: path, NarSize: o.Size()})
			storetest.Must(t, err)
			defer tree.Close()
			want, err := io.ReadAll(io.NewSectionReader(tree, 0, o.Size()))
			storetest.Must(t, err)
			storetest.Must(t, nar.Check(bytes.NewReader(want), o.Size()))
			for step := 1; step <= len(want); step = step*3 + 1 {
				for off := 0; off < len(want); off += step {
					p := bytes.Repeat([]byte{0xaa}, step)
					n, err := o.ReadAt(p, int64(off), c.read)
					end := min(off+step, len(want))
					if n != end-off || string(p[:n]) != string(want[off:end]) || (err == io.EOF) != (n < step) {
						t.Fatalf("ReadAt(%d bytes, %d) of %d = %d, %v, or other bytes than the file's", step, off, len(want), n, err)
					}
				}
			}
		})
	}
}

func TestOutlineRefusesWhatNixWould(t *testing.T) {
	for name, build := range map[string]func(b *nar.OutlineBuilder){
		"no end":     func(b *nar.OutlineBuilder) { b.Directory("") },
		"nothing":    func(b *nar.OutlineBuilder) {},
		"two roots":  func(b *nar.OutlineBuilder) { b.File("", 1, false, 0); b.File("", 1, false, 0) },
		"named root": func(b *nar.OutlineBuilder) { b.File("x", 1, false, 0) },
		"order": func(b *nar.OutlineBuilder) {
			b.Directory("")
			b.File("b", 1, false, 0)
			b.File("a", 1, false, 0)
			b.End()
		},
		"duplicate": func(b *nar.OutlineBuilder) {
			b.Directory("")
			b.File("a", 1, false, 0)
			b.File("a", 1, false, 0)
			b.End()
		},
		"dot":           func(b *nar.OutlineBuilder) { b.Directory(""); b.File(".", 1, false, 0); b.End() },
		"dots":          func(b *nar.OutlineBuilder) { b.Directory(""); b.Directory(".."); b.End(); b.End() },
		"slash":         func(b *nar.OutlineBuilder) { b.Directory(""); b.File("a/b", 1, false, 0); b.End() },
		"NUL":           func(b *nar.OutlineBuilder) { b.Directory(""); b.File("a\x00", 1, false, 0); b.End() },
		"no name":       func(b *nar.OutlineBuilder) { b.Directory(""); b.File("", 1, false, 0); b.End() },
		"long name":     func(b *nar.OutlineBuilder) { b.Directory(""); b.File(strings.Repeat("x", 256), 1, false, 0); b.End() },
		"empty symlink": func(b *nar.OutlineBuilder) { b.Symlink("", 0, 0) },
		"long symlink":  func(b *nar.OutlineBuilder) { b.Symlink("", 4096, 0) },
		"huge file":     func(b *nar.OutlineBuilder) { b.File("", 1<<41, false, 0) },
		"too many": func(b *nar.OutlineBuilder) {
			b.MaxNodes = 2
			b.Directory("")
			b.File("a", 1, false, 0)
			b.File("b", 1, false, 0)
			b.End()
		},
		"too deep": func(b *nar.OutlineBuilder) {
			b.Directory("")
			for range 64 {
				b.Directory("d")
			}
			for range 65 {
				b.End()
			}
		},
	} {
		var b nar.OutlineBuilder
		build(&b)
		if o, err := b.Outline(); err == nil {
			t.Errorf("%s: an outline of %d bytes, want an error", name, o.Size())
		}
	}
}
