package integration_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"narbor/store/storetest"
)

// releaseNotes is a section of CHANGELOG.md for the version that the tests release, and one below it.
const releaseNotes = "## [9.9.9] - 2026-01-02\n\n### Added\n\n- A sentence for the notes.\n\n## [0.0.1] - 2026-01-01\n\n- Older.\n\n"

// releaseTree returns a git checkout of this tree with a section in CHANGELOG.md for the version 9.9.9.
func releaseTree(t *testing.T) string {
	t.Helper()
	flakeNeeds(t, "git", "tar", "sha256sum")
	list, err := exec.CommandContext(t.Context(), "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "..").Output()
	if err != nil {
		unable(t, "a release is built from a git checkout: "+err.Error())
	}
	tree := filepath.Join(t.TempDir(), "tree")
	for name := range strings.SplitSeq(strings.TrimSuffix(string(list), "\x00"), "\x00") {
		info, err := os.Lstat(name)
		if err != nil || !info.Mode().IsRegular() {
			continue // deleted, and not committed yet
		}
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if name == "../CHANGELOG.md" {
			text = bytes.Replace(text, []byte("## [Unreleased]\n"), []byte("## [Unreleased]\n\n"+releaseNotes), 1)
		}
		to := filepath.Join(tree, "integration", name)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, text, info.Mode().Perm()); err != nil {
			t.Fatal(err)
		}
	}
	command(t, tree, "git", "init", "--quiet")
	commitAll(t, tree)
	return tree
}

func commitAll(t *testing.T, tree string) {
	t.Helper()
	command(t, tree, "git", "add", "--all")
	command(t, tree, "git", "-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "--quiet", "--message=test")
}

// release runs integration/release in a tree.
func release(t *testing.T, tree string, env []string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(tree, "integration/release"), args...)
	cmd.Dir, cmd.Env = tree, append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// Two builds of one commit, in different folders, with different settings and one after the other, are the same bytes.
// By night they share no cache either, and cover all targets.
func TestReleaseIsTheSameTwice(t *testing.T) {
	if !storetest.InCheck() {
		t.Skip("a release is compiled with other flags, which takes minutes: set NARBOR_CHECK=1")
	}
	tree := releaseTree(t)
	var args, caches []string
	if nightly() {
		caches = []string{"GOCACHE=" + t.TempDir(), "GOCACHE=" + t.TempDir()}
	} else {
		args, caches = []string{"-t", "linux/" + runtime.GOARCH}, []string{"A=", "A="}
	}
	again := filepath.Join(t.TempDir(), "another", "folder")
	command(t, "", "git", "clone", "--quiet", tree, again)
	first, second := filepath.Join(t.TempDir(), "first"), filepath.Join(t.TempDir(), "second")
	if out, err := release(t, tree, []string{caches[0]}, append(args, "9.9.9", first)...); err != nil {
		t.Fatalf("release: %v\n%s", err, out)
	}
	odd := []string{caches[1], "TZ=Asia/Tokyo", "GOFLAGS=-v", "GOAMD64=v2", "GOFIPS140=latest", "USER=other", "HOSTNAME=other"}
	if out, err := release(t, again, odd, append(args, "9.9.9", second)...); err != nil {
		t.Fatalf("release: %v\n%s", err, out)
	}
	files := sameFiles(t, first, second)
	for _, want := range []string{"NOTES.md", "SHA256SUMS", "narbor-9.9.9-linux-" + runtime.GOARCH,
		"narbor-9.9.9-linux-" + runtime.GOARCH + ".cdx.json",
		"narbor_9.9.9_" + runtime.GOARCH + ".deb", "narbor-9.9.9-1." + archOf() + ".rpm",
		"narbor_9.9.9-r0_" + archOf() + ".apk", "narbor-9.9.9-1-" + archOf() + ".pkg.tar.zst"} {
		if !slices.Contains(files, want) {
			t.Errorf("the release has %q, want %s", files, want)
		}
	}
	if nightly() && !slices.Contains(files, "narbor-9.9.9-darwin-arm64") {
		t.Errorf("the release has %q, want all targets", files)
	}
	checkRelease(t, first)
}

// sameFiles compares two folders byte by byte, and returns the names of their files.
func sameFiles(t *testing.T, first, second string) (names []string) {
	t.Helper()
	var lists [2]string
	for i, dir := range []string{first, second} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		names = nil
		for _, e := range entries {
			names = append(names, e.Name())
		}
		lists[i] = fmt.Sprint(names)
	}
	if lists[0] != lists[1] {
		t.Fatalf("one release has %s, the other %s", lists[0], lists[1])
	}
	for _, name := range names {
		a, err := os.ReadFile(filepath.Join(first, name))
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(second, name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(a, b) {
			t.Errorf("%s differs between two builds", name)
		}
	}
	return names
}

// checkRelease looks at what a release says about itself.
func checkRelease(t *testing.T, dir string) {
	t.Helper()
	command(t, dir, "sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS")
	notes, err := os.ReadFile(filepath.Join(dir, "NOTES.md"))
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`^### Added\n\n- A sentence for the notes\.\n\nBuilt by go\S+ from commit [0-9a-f]{40}\.\n$`).Match(notes) {
		t.Errorf("the notes are %q", notes)
	}
	program := filepath.Join(dir, "narbor-9.9.9-linux-"+runtime.GOARCH)
	out, err := exec.CommandContext(t.Context(), program, "version").Output()
	if err != nil || string(out) != "narbor 9.9.9\n" {
		t.Errorf("narbor version: %q, %v", out, err)
	}
	if text, err := os.ReadFile(program); err != nil || bytes.Contains(text, []byte(filepath.Dir(dir))) {
		t.Errorf("the program names the folder in which it was built: %v", err)
	}
	bill, err := os.ReadFile(program + ".cdx.json")
	if err != nil || !bytes.Contains(bill, []byte("pkg:golang/github.com/libp2p/go-libp2p@v")) ||
		!bytes.Contains(bill, []byte(`"timestamp": "2026-01-02T00:00:00Z"`)) {
		t.Errorf("the SBOM lacks go-libp2p or the date of the release: %v", err)
	}
}

func TestReleaseRefuses(t *testing.T) {
	tree := releaseTree(t)
	refused := func(want string, args ...string) {
		t.Helper()
		out, err := release(t, tree, []string{"GOCACHE=/nonexistent/cache"}, args...) // nothing may be built
		if err == nil || !strings.Contains(out, want) {
			t.Errorf("release %q: %v, and says %q, want %q", args, err, out, want)
		}
	}
	for _, bad := range []string{"", "9.9", "v9.9.9", "9.9.09", "9.9.9-rc1", "9.9.9/..", "9.9.9 ", "9.9.9\n1"} {
		refused("is not a version", bad)
	}
	refused("CHANGELOG.md has no section", "9.9.8")
	refused("CHANGELOG.md has no section", "9.9.9-rc.1")
	there := t.TempDir()
	refused("exists already", "9.9.9", there)
	if left, err := os.ReadDir(there); err != nil || len(left) > 0 {
		t.Errorf("the folder that existed has %v now: %v", left, err)
	}
	out := filepath.Join(t.TempDir(), "out")
	extra := filepath.Join(tree, "cmd/narbor/extra.go")
	if err := os.WriteFile(extra, []byte("package main\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	refused("not committed", "9.9.9", out)
	if err := os.Remove(extra); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(out); err == nil {
		t.Errorf("a refused release has left %s", out)
	}
	empty := []byte("## [9.9.9] - 2026-01-02\n\n## [9.9.8]\n\n- Old.\n")
	if err := os.WriteFile(filepath.Join(tree, "CHANGELOG.md"), empty, 0o644); err != nil {
		t.Fatal(err)
	}
	commitAll(t, tree)
	refused("is empty", "9.9.9", out)
}
