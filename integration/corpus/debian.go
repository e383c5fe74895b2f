package corpus

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"narbor/store"
)

// A debian is the description of a Debian package in its archive.
type debian struct {
	name, version, sha256 string
	installed             int64 // KiB
	depends               [][]string

	path store.Path
	refs []store.Path // without itself
}

// available reads apt's packages: the newest version of each, and for the name of a virtual package the first package
// that provides it.
func available(ctx context.Context) (packages map[string]*debian, providers map[string]string, err error) {
	out, err := command(ctx, "", "apt-cache", "dumpavail")
	if err != nil {
		return nil, nil, err
	}
	packages, providers = map[string]*debian{}, map[string]string{}
	for stanza := range strings.SplitSeq(out, "\n\n") {
		fields := map[string]string{}
		for line := range strings.Lines(stanza) {
			if key, value, ok := strings.Cut(line, ":"); ok && line[0] != ' ' {
				fields[key] = strings.TrimSpace(value)
			}
		}
		name := fields["Package"]
		if name == "" || packages[name] != nil {
			continue
		}
		d := &debian{name: name, version: fields["Version"], sha256: fields["SHA256"]}
		d.installed, _ = strconv.ParseInt(fields["Installed-Size"], 10, 64)
		d.depends = parseDepends(fields["Pre-Depends"] + "," + fields["Depends"])
		d.path, err = pathOf(d)
		if err != nil {
			return nil, nil, err
		}
		packages[name] = d
		for _, alternatives := range parseDepends(fields["Provides"]) {
			if virtual := alternatives[0]; providers[virtual] == "" {
				providers[virtual] = name
			}
		}
	}
	return packages, providers, nil
}

// parseDepends reads "a (>= 1) | b, c:any" as [[a b] [c]].
func parseDepends(s string) [][]string {
	var all [][]string
	for clause := range strings.SplitSeq(s, ",") {
		var alternatives []string
		for alt := range strings.SplitSeq(clause, "|") {
			name, _, _ := strings.Cut(strings.TrimSpace(alt), " ")
			name, _, _ = strings.Cut(name, ":")
			if name != "" {
				alternatives = append(alternatives, name)
			}
		}
		if alternatives != nil {
			all = append(all, alternatives)
		}
	}
	return all
}

// pathOf derives a store path from the package's hash. To Nix it is an input-addressed path, which needs a signature.
func pathOf(d *debian) (store.Path, error) {
	sum := sha256.Sum256([]byte("narbor corpus " + version + " " + d.sha256))
	name := strings.Map(func(r rune) rune {
		if strings.ContainsRune("+-._?=", r) || r < 128 && (r >= '0' && r <= '9' || r|32 >= 'a' && r|32 <= 'z') {
			return r
		}
		return '_' // "~" and ":" in versions
	}, d.name+"-"+d.version)
	return store.ParsePathName(string(store.HashPartFromBytes([20]byte(sum[:20]))) + "-" + name)
}

// closure returns the seeds and their dependencies, each after its own references.
func closure(ctx context.Context, spec Spec) ([]*debian, error) {
	packages, providers, err := available(ctx)
	if err != nil {
		return nil, err
	}
	const visiting, visited = 1, 2
	state := map[*debian]int{}
	var order []*debian
	var visit func(d *debian)
	visit = func(d *debian) {
		state[d] = visiting
		for _, alternatives := range d.depends {
			dep := choose(alternatives, packages, providers)
			if dep == nil || dep.installed > spec.MaxInstalled && !slices.Contains(spec.Seeds, dep.name) {
				continue
			}
			if state[dep] == 0 {
				visit(dep)
			}
			if state[dep] == visited { // otherwise a cycle, which Nix does not allow
				d.refs = append(d.refs, dep.path)
			}
		}
		d.refs = store.SortPaths(d.refs)
		state[d] = visited
		order = append(order, d)
	}
	for _, seed := range spec.Seeds {
		d := packages[seed]
		if d == nil {
			return nil, fmt.Errorf("apt knows no package %s", seed)
		}
		if state[d] == 0 {
			visit(d)
		}
	}
	return order, nil
}

func choose(alternatives []string, packages map[string]*debian, providers map[string]string) *debian {
	for _, name := range alternatives {
		if d := packages[name]; d != nil {
			return d
		}
		if d := packages[providers[name]]; d != nil {
			return d
		}
	}
	return nil
}

// download fetches the packages into dir and returns the file of each.
func download(ctx context.Context, dir string, packages []*debian) (map[*debian]string, error) {
	args := []string{"apt-get", "download", "-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=3"}
	for _, d := range packages {
		args = append(args, d.name+"="+d.version)
	}
	if _, err := command(ctx, dir, args...); err != nil {
		return nil, err
	}
	files := map[*debian]string{}
	for _, d := range packages {
		escaped := strings.ReplaceAll(d.version, ":", "%3a")
		found, err := filepath.Glob(filepath.Join(dir, d.name+"_"+escaped+"_*.deb"))
		if err != nil || len(found) != 1 {
			return nil, fmt.Errorf("apt-get download %s=%s left %q (%v)", d.name, d.version, found, err)
		}
		files[d] = found[0]
	}
	return files, nil
}

// command runs a program in dir and returns its output; the error has its standard error in it.
func command(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s", strings.Join(args[:min(3, len(args))], " "), err, stderr.String())
	}
	return string(out), nil
}
