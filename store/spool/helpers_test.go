package spool_test

import (
	"encoding/binary"
	"os"
	"strings"
	"testing"
)

func needs(tb testing.TB, what string) {
	tb.Helper()
	if os.Getenv("CI") == "true" {
		tb.Fatalf("CI=true, but: %s", what)
	}
	tb.Skip(what)
}

// words writes strings as an archive has them.
func words(list ...string) string {
	var b []byte
	for _, s := range list {
		b = binary.LittleEndian.AppendUint64(b, uint64(len(s)))
		b = append(b, s...)
		b = append(b, make([]byte, -len(s)&7)...)
	}
	return string(b)
}

func archive(node string) string { return words("nix-archive-1") + node }

func file(contents string) string {
	return words("(", "type", "regular", "contents", contents, ")")
}

func entry(name, node string) string {
	return words("entry", "(", "name", name, "node") + node + words(")")
}

func directory(entries ...string) string {
	return words("(", "type", "directory") + strings.Join(entries, "") + words(")")
}

// files is a directory of empty files.
func files(names ...string) string {
	var entries []string
	for _, name := range names {
		entries = append(entries, entry(name, file("")))
	}
	return directory(entries...)
}
