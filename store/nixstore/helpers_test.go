package nixstore_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// needNix skips a test that runs Nix's own programs where they are not installed; under CI=true they must be.
func needNix(tb testing.TB, programs ...string) {
	tb.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			needs(tb, err.Error())
		}
	}
}

func needs(tb testing.TB, what string) {
	tb.Helper()
	if os.Getenv("CI") == "true" {
		tb.Fatalf("CI=true, but: %s", what)
	}
	tb.Skip(what)
}

// dump returns what Nix makes of path.
func dump(tb testing.TB, path string) []byte {
	tb.Helper()
	needNix(tb, "nix-store")
	cmd := exec.Command("nix-store", "--dump", path)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		tb.Fatalf("nix-store --dump %s: %v: %s", path, err, stderr.String())
	}
	return out
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func writeFile(tb testing.TB, path string, size int, mode os.FileMode) {
	tb.Helper()
	must(tb, os.MkdirAll(filepath.Dir(path), 0o755))
	data := make([]byte, size)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(data)
	must(tb, os.WriteFile(path, data, mode))
}

// trees are the shapes that a NAR can have, made below a directory; each returns the root.
var trees = map[string]func(tb testing.TB, dir string) string{
	"file": func(tb testing.TB, dir string) string {
		writeFile(tb, dir+"/f", 1001, 0o444)
		return dir + "/f"
	},
	"executable": func(tb testing.TB, dir string) string {
		writeFile(tb, dir+"/x", 8, 0o555)
		return dir + "/x"
	},
	"empty file": func(tb testing.TB, dir string) string {
		writeFile(tb, dir+"/e", 0, 0o444)
		return dir + "/e"
	},
	"empty directory": func(tb testing.TB, dir string) string { return dir },
	"symlink": func(tb testing.TB, dir string) string {
		must(tb, os.Symlink("no such file", dir+"/s"))
		return dir + "/s"
	},
	"longest symlink": func(tb testing.TB, dir string) string {
		must(tb, os.Symlink(strings.Repeat("x", 4095), dir+"/s"))
		return dir + "/s"
	},
	"names": func(tb testing.TB, dir string) string {
		for i, name := range []string{"..foo", "...", "a", "a.b", "a b", "A", "ab", "ä", "\xff\xfe", "\x01", ")", "(", "entry", "node",
			strings.Repeat("n", 255), "a\nb", "~nix~case~hack", "~nix~case~hack~1", "a~nix~case~hack~2", "Z", "_", "-", "a-"} {
			writeFile(tb, filepath.Join(dir, name), i, 0o444)
		}
		writeFile(tb, dir+"/b/..bar/x", 17, 0o755)
		writeFile(tb, dir+"/b0/empty", 0, 0o755)
		must(tb, os.Symlink("/etc/passwd", dir+"/b/link"))
		must(tb, os.Symlink("b", dir+"/blink"))
		must(tb, os.Mkdir(dir+"/nothing", 0o755))
		return dir
	},
	"modes": func(tb testing.TB, dir string) string {
		for _, mode := range []os.FileMode{0o400, 0o500, 0o600, 0o644, 0o654, 0o645, 0o744, 0o444} {
			writeFile(tb, fmt.Sprintf("%s/%o", dir, mode), 100, mode)
		}
		return dir
	},
	"deep": func(tb testing.TB, dir string) string {
		writeFile(tb, dir+strings.Repeat("/d", 62)+"/leaf", 300, 0o444) // 64 nodes one below the other
		return dir
	},
	"ten thousand": func(tb testing.TB, dir string) string {
		for i := range 10000 {
			name := fmt.Sprintf("%s/%d", dir, i*7919%10007)
			if i < 70 {
				writeFile(tb, name, i, 0o444)
			} else {
				must(tb, os.Link(fmt.Sprintf("%s/%d", dir, i%70*7919%10007), name))
			}
		}
		return dir
	},
	"large": func(tb testing.TB, dir string) string {
		for i := range 20 {
			writeFile(tb, fmt.Sprintf("%s/%c/%d/data", dir, 'a'+i%3, i), 300_000+i, 0o444)
		}
		return dir
	},
}

// atMost is the deadline of a wait in a test: d times NARBOR_SLOW, as integration/check does with the timeouts of packages.
func atMost(d time.Duration) time.Duration {
	factor, err := strconv.Atoi(os.Getenv("NARBOR_SLOW"))
	if err != nil || factor < 1 {
		return d
	}
	return time.Duration(factor) * d
}
