package storetest

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"narbor/store"
)

// Words writes strings as an archive has them.
func Words(list ...string) string {
	var b []byte
	for _, s := range list {
		b = binary.LittleEndian.AppendUint64(b, uint64(len(s)))
		b = append(b, s...)
		b = append(b, make([]byte, -len(s)&7)...)
	}
	return string(b)
}

// Archive is the archive of a node.
func Archive(node string) string { return Words("nix-archive-1") + node }

// File is the node of a regular file.
func File(contents string) string {
	return Words("(", "type", "regular", "contents", contents, ")")
}

// Entry is an entry of a directory.
func Entry(name, node string) string {
	return Words("entry", "(", "name", name, "node") + node + Words(")")
}

// Directory is the node of a directory.
func Directory(entries ...string) string {
	return Words("(", "type", "directory") + strings.Join(entries, "") + Words(")")
}

// Files is a directory of empty files.
func Files(names ...string) string {
	var entries []string
	for _, name := range names {
		entries = append(entries, Entry(name, File("")))
	}
	return Directory(entries...)
}

// FileNAR is the archive of a file with these contents.
func FileNAR(contents []byte) []byte { return []byte(Archive(File(string(contents)))) }

// RandomNAR returns the archive of a file, the same for the same seed, and its hash. It has size bytes, or the few more
// that an archive must have.
func RandomNAR(seed uint64, size int) ([]byte, store.Hash) {
	contents := make([]byte, max(0, size-len(FileNAR(nil))))
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)})
	_, _ = r.Read(contents) // returns no error
	b := FileNAR(contents)
	return b, sha256.Sum256(b)
}

// ReadAll returns the bytes of an archive.
func ReadAll(tb testing.TB, n store.NAR) []byte {
	tb.Helper()
	b, err := io.ReadAll(io.NewSectionReader(n, 0, n.Size()))
	Must(tb, err)
	return b
}

// PackXZ compresses with xz.
func PackXZ(tb testing.TB, b []byte) []byte {
	tb.Helper()
	var out bytes.Buffer
	w, err := xz.NewWriter(&out)
	if err == nil {
		_, err = w.Write(b)
		err = errors.Join(err, w.Close())
	}
	Must(tb, err)
	return out.Bytes()
}

// PackZstd compresses with zstd, with a checksum.
func PackZstd(tb testing.TB, b []byte) []byte {
	tb.Helper()
	w, err := zstd.NewWriter(nil, zstd.WithEncoderCRC(true))
	Must(tb, err)
	defer w.Close()
	return w.EncodeAll(b, nil)
}
