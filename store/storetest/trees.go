package storetest

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// WriteFile writes a file of size bytes that are always the same, with the directories above it.
func WriteFile(tb testing.TB, path string, size int, mode os.FileMode) {
	tb.Helper()
	Must(tb, os.MkdirAll(filepath.Dir(path), 0o755))
	data := make([]byte, size)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(data) // returns no error
	Must(tb, os.WriteFile(path, data, mode))
}

// Trees are the shapes that a NAR can have, made below a directory; each returns the root.
var Trees = map[string]func(tb testing.TB, dir string) string{
	"file": func(tb testing.TB, dir string) string {
		WriteFile(tb, dir+"/f", 1001, 0o444)
		return dir + "/f"
	},
	"executable": func(tb testing.TB, dir string) string {
		WriteFile(tb, dir+"/x", 8, 0o555)
		return dir + "/x"
	},
	"empty file": func(tb testing.TB, dir string) string {
		WriteFile(tb, dir+"/e", 0, 0o444)
		return dir + "/e"
	},
	"empty directory": func(tb testing.TB, dir string) string { return dir },
	"symlink": func(tb testing.TB, dir string) string {
		Must(tb, os.Symlink("no such file", dir+"/s"))
		return dir + "/s"
	},
	"longest symlink": func(tb testing.TB, dir string) string {
		Must(tb, os.Symlink(strings.Repeat("x", 4095), dir+"/s"))
		return dir + "/s"
	},
	"names": func(tb testing.TB, dir string) string {
		for i, name := range []string{"..foo", "...", "a", "a.b", "a b", "A", "ab", "ä", "\xff\xfe", "\x01", ")", "(", "entry", "node",
			strings.Repeat("n", 255), "a\nb", "~nix~case~hack", "~nix~case~hack~1", "a~nix~case~hack~2", "Z", "_", "-", "a-"} {
			WriteFile(tb, filepath.Join(dir, name), i, 0o444)
		}
		WriteFile(tb, dir+"/b/..bar/x", 17, 0o755)
		WriteFile(tb, dir+"/b0/empty", 0, 0o755)
		Must(tb, os.Symlink("/etc/passwd", dir+"/b/link"))
		Must(tb, os.Symlink("b", dir+"/blink"))
		Must(tb, os.Mkdir(dir+"/nothing", 0o755))
		return dir
	},
	"modes": func(tb testing.TB, dir string) string {
		for _, mode := range []os.FileMode{0o400, 0o500, 0o600, 0o644, 0o654, 0o645, 0o744, 0o444} {
			WriteFile(tb, fmt.Sprintf("%s/%o", dir, mode), 100, mode)
		}
		return dir
	},
	"deep": func(tb testing.TB, dir string) string {
		WriteFile(tb, dir+strings.Repeat("/d", 62)+"/leaf", 300, 0o444) // 64 nodes one below the other
		return dir
	},
	"ten thousand": func(tb testing.TB, dir string) string {
		for i := range 10000 {
			name := fmt.Sprintf("%s/%d", dir, i*7919%10007)
			if i < 70 {
				WriteFile(tb, name, i, 0o444)
			} else {
				Must(tb, os.Link(fmt.Sprintf("%s/%d", dir, i%70*7919%10007), name))
			}
		}
		return dir
	},
	"large": func(tb testing.TB, dir string) string {
		for i := range 20 {
			WriteFile(tb, fmt.Sprintf("%s/%c/%d/data", dir, 'a'+i%3, i), 300_000+i, 0o444)
		}
		return dir
	},
}
