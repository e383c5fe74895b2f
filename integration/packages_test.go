package integration_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"iter"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// buildPackages builds packages of a version, from the program that the tests run.
func buildPackages(t *testing.T, dir, version string, formats ...string) {
	t.Helper()
	if programs.err != nil {
		t.Fatal(programs.err)
	}
	command(t, "", "packages/build", append([]string{"-o", dir, "-v", version, "-p", filepath.Join(programs.dir, "narbor")}, formats...)...)
}

// withSmallProgram returns options with which packages/build packs a program of a few bytes, which takes less time. The
// manual and the completions are those of the real one.
func withSmallProgram(t *testing.T) []string {
	t.Helper()
	if programs.err != nil {
		t.Fatal(programs.err)
	}
	small := filepath.Join(t.TempDir(), "small")
	if err := os.WriteFile(small, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return []string{"-p", small, "-r", filepath.Join(programs.dir, "narbor")}
}

// packageFiles lists a package's files, each with its mode. The folder of zsh's functions is the one that differs.
func packageFiles(t *testing.T, name string) (files []string) {
	t.Helper()
	add := func(mode os.FileMode, file string) {
		file = strings.TrimLeft(file, "./")
		if !strings.HasPrefix(file, "etc/") && !strings.HasPrefix(file, "usr/") {
			return // the package's own records
		}
		file = strings.Replace(file, "zsh/vendor-completions", "zsh/site-functions", 1)
		files = append(files, mode.Perm().String()+" "+file)
	}
	for header := range tarFiles(t, name) {
		if header.Typeflag == tar.TypeReg {
			add(header.FileInfo().Mode(), header.Name)
		}
	}
	slices.Sort(files)
	return files
}

// tarFiles yields the files of a package that is, or has in it, a tar archive.
func tarFiles(t *testing.T, name string) iter.Seq2[*tar.Header, io.Reader] {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var r io.Reader = bytes.NewReader(text)
	switch filepath.Ext(name) {
	case ".deb":
		out, err := exec.CommandContext(t.Context(), "dpkg-deb", "--fsys-tarfile", name).Output()
		if err != nil {
			t.Fatal(err)
		}
		r = bytes.NewReader(out)
	case ".apk":
		r, err = gzip.NewReader(r)
	case ".zst":
		r, err = zstd.NewReader(r)
	}
	if err != nil {
		t.Fatal(err)
	}
	return func(yield func(*tar.Header, io.Reader) bool) {
		archive := tar.NewReader(r)
		for {
			header, err := archive.Next()
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if !yield(header, archive) {
				return
			}
		}
	}
}

// rpmFiles is packageFiles for an rpm.
func rpmFiles(t *testing.T, name string) (files []string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "rpm", "-qp", "--qf", `[%{FILEMODES:perms} %{FILENAMES}\n]`, name).Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		if line[0] == '-' { // no directory
			files = append(files, strings.Replace(strings.TrimSpace(line), " /", " ", 1))
		}
	}
	slices.Sort(files)
	return files
}

func TestPackagesHoldTheSame(t *testing.T) {
	flakeNeeds(t, "dpkg-deb", "rpm", "gzip")
	dir, again := t.TempDir(), t.TempDir()
	formats := []string{"deb", "rpm", "apk", "archlinux"}
	args := slices.Concat(withSmallProgram(t), []string{"-v", "1.0~rc.1"}, formats)
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	command(t, "", "packages/build", append([]string{"-o", dir}, args...)...)
	t.Setenv("TZ", "Asia/Tokyo")
	command(t, "", "packages/build", append([]string{"-o", again}, args...)...)
	if names := sameFiles(t, dir, again); len(names) != len(formats) {
		t.Errorf("there are %q, want one package for each of %q", names, formats)
	}
	arch := archOf()
	want := packageFiles(t, filepath.Join(dir, "narbor_1.0~rc.1_"+runtime.GOARCH+".deb"))
	for _, file := range []string{"-rwxr-xr-x usr/bin/narbor", "-rw-r--r-- usr/lib/systemd/system/narbor.socket",
		"-rw-r--r-- etc/default/narbor", "-rwxr-xr-x usr/share/doc/narbor/runit/run"} {
		if !slices.Contains(want, file) {
			t.Errorf("the deb lacks %s:\n%s", file, strings.Join(want, "\n"))
		}
	}
	if got := rpmFiles(t, filepath.Join(dir, "narbor-1.0~rc.1-1."+arch+".rpm")); !slices.Equal(got, want) {
		t.Errorf("the rpm has %q, the deb %q", got, want)
	}
	const hook = "-rw-r--r-- usr/share/libalpm/hooks/narbor.hook"
	if got := packageFiles(t, filepath.Join(dir, "narbor-1.0rc.1-1-"+arch+".pkg.tar.zst")); !slices.Contains(got, hook) ||
		!slices.Equal(slices.DeleteFunc(got, func(f string) bool { return f == hook }), want) {
		t.Errorf("Arch's package has %q, the deb %q", got, want)
	}
	const openrc = "-rwxr-xr-x etc/init.d/narbor"
	got := packageFiles(t, filepath.Join(dir, "narbor_1.0_rc1-r0_"+arch+".apk"))
	if others := slices.DeleteFunc(slices.Clone(got), func(f string) bool { return f == openrc }); !slices.Equal(others, want) {
		t.Errorf("the apk has %q, the deb %q", others, want)
	}
	if !slices.Contains(got, openrc) {
		t.Errorf("the apk has no service for OpenRC: %q", got)
	}
	checkScripts(t, filepath.Join(dir, "narbor_1.0_rc1-r0_"+arch+".apk"), ".post-install", ".post-upgrade", ".pre-deinstall",
		"etc/init.d/narbor", "usr/share/doc/narbor/runit/run")
	checkScripts(t, filepath.Join(dir, "narbor-1.0rc.1-1-"+arch+".pkg.tar.zst"), ".INSTALL")
}

// checkScripts lets a shell read scripts of a package.
func checkScripts(t *testing.T, name string, scripts ...string) {
	t.Helper()
	for header, r := range tarFiles(t, name) {
		i := slices.Index(scripts, header.Name)
		if i < 0 {
			continue
		}
		scripts = slices.Delete(scripts, i, i+1)
		cmd := exec.CommandContext(t.Context(), "bash", "-n") // which pacman runs .INSTALL by
		cmd.Stdin = r
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s of %s: %v\n%s", header.Name, name, err, out)
		}
	}
	if len(scripts) > 0 {
		t.Errorf("%s lacks %q", name, scripts)
	}
}

// With changes that are not released, builds of a checkout are called after a version that follows the last release.
func TestCheckoutsAreNamedAfterTheNextVersion(t *testing.T) {
	last, unreleased := lastRelease(t)
	for file, pattern := range map[string]string{"../flake.nix": `version = "(.+)-\$\{self`,
		"../cmd/narbor/version.go": `version = "(.+)-dev"`, "packages/build": `version=(.+)~git`} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		m := regexp.MustCompile(pattern).FindSubmatch(text)
		if m == nil {
			t.Errorf("%s has no version", file)
			continue
		}
		next := string(m[1])
		if later := slices.Compare(numbers(t, next), numbers(t, last)); later < 0 || later == 0 && unreleased {
			t.Errorf("%s has version %s, and the last release is %s; with changes since: %t", file, next, last, unreleased)
		}
	}
}

// numbers are those of a version such as 1.2.3.
func numbers(t *testing.T, version string) (n []int) {
	t.Helper()
	for part := range strings.SplitSeq(version, ".") {
		i, err := strconv.Atoi(part)
		if err != nil {
			t.Fatalf("%s is not a version: %v", version, err)
		}
		n = append(n, i)
	}
	return n
}

// lastRelease returns the newest version in CHANGELOG, and whether changes since then are in it.
func lastRelease(t *testing.T) (version string, unreleased bool) {
	t.Helper()
	text, err := os.ReadFile("../CHANGELOG.md")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?s)\n## \[Unreleased\]\n(.*?)\n## \[(\d+\.\d+\.\d+)\]`).FindSubmatch(text)
	if m == nil {
		t.Fatal("CHANGELOG has no release")
	}
	return string(m[2]), len(bytes.TrimSpace(m[1])) > 0
}

// Versions of commits sort by their number, after the last release and before the one that they lead to.
func TestPackageVersionsSort(t *testing.T) {
	flakeNeeds(t, "dpkg", "rpm", "git")
	dir := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "git", "rev-parse", "HEAD").CombinedOutput(); err != nil {
		unable(t, string(out))
	}
	command(t, "", "packages/build", append(withSmallProgram(t), "-o", dir, "deb")...)
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 ||
		!regexp.MustCompile(`^narbor_\d+\.\d+\.\d+~git\d{8}\.\d+\.[0-9a-f]{7,}_\w+\.deb$`).MatchString(entries[0].Name()) {
		t.Errorf("the package of a commit is %v: %v", entries, err)
	}
	last, _ := lastRelease(t)
	if len(entries) == 1 {
		command(t, "", "dpkg", "--compare-versions", strings.Split(entries[0].Name(), "_")[1], "gt", last)
	}
	ordered := []string{"0.1.0~git20261128.9.fff", "0.1.0~git20261128.10.000", "0.1.0~git20261129.11.aaa", "0.1.0~rc.1", "0.1.0",
		"0.1.1~git20261130.12.bbb", "0.1.1"}
	for i := range len(ordered) - 1 {
		command(t, "", "dpkg", "--compare-versions", ordered[i], "lt", ordered[i+1])
		out, err := exec.CommandContext(t.Context(), "rpm", "--eval",
			`%{lua:print(rpm.vercmp("`+ordered[i]+`", "`+ordered[i+1]+`"))}`).CombinedOutput()
		if err != nil || strings.TrimSpace(string(out)) != "-1" {
			t.Errorf("rpm compares %s with %s: %s, %v", ordered[i], ordered[i+1], out, err)
		}
	}
}

// The scripts of rpm, apk and Arch tell an installation from an upgrade and a removal by their arguments.
func TestPackageScriptsKnowUpgrades(t *testing.T) {
	commands := t.TempDir()
	log := filepath.Join(commands, "log")
	for _, name := range []string{"narbor", "systemctl", "groupadd"} {
		text := "#!/bin/sh\necho " + name + " $* >>" + log + "\n"
		if err := os.WriteFile(filepath.Join(commands, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", commands)
	const enable, setup, unsetup = "systemctl enable narbor.socket", "narbor setup --only-nix", "narbor unsetup --only-nix"
	const disable = "systemctl disable narbor-refresh.timer narbor.socket"
	for _, c := range []struct {
		script string
		args   []string
		want   []string
	}{
		{"installed", []string{"1"}, []string{enable, setup}}, // rpm
		{"installed", []string{"2"}, nil},
		{"installed", []string{"1.0-r0"}, []string{enable, setup}}, // apk and pacman
		{"installed", []string{"1.1-r0", "1.0-r0"}, nil},
		{"removing", []string{"1"}, nil}, // rpm, at an upgrade
		{"removing", []string{"0"}, []string{unsetup, disable}},
		{"removing", []string{"1.0-r0"}, []string{unsetup, disable}},
	} {
		if err := os.WriteFile(log, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), "/bin/sh", append([]string{"packages/" + c.script}, c.args...)...).CombinedOutput()
		said, _ := os.ReadFile(log)
		if err != nil {
			t.Errorf("%s %q: %v\n%s", c.script, c.args, err, out)
		}
		for _, call := range []string{enable, setup, unsetup, disable} {
			if got, want := strings.Contains(string(said), call), slices.Contains(c.want, call); got != want {
				t.Errorf("%s %q runs %q: %v, want %v; it has run\n%s", c.script, c.args, call, got, want, said)
			}
		}
	}
}
