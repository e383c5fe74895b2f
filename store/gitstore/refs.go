package gitstore

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
)

const (
	// maxRefs bounds the refs of a repository that match, and maxPackedRefs the file that most of them are in.
	maxRefs, maxPackedRefs = 10_000, 64 << 20
	maxShallow             = 1 << 20
)

// A Pattern matches names of refs: * stands for any text, and ? for any character.
type Pattern struct{ re *regexp.Regexp }

// ParsePattern accepts a pattern for whole names of refs, such as refs/heads/nixos-*.
func ParsePattern(s string) (Pattern, error) {
	if !strings.HasPrefix(s, "refs/") {
		return Pattern{}, fmt.Errorf("%.80q does not begin with refs/, as in refs/heads/*", s)
	}
	text := regexp.QuoteMeta(s)
	text = strings.NewReplacer(`\*`, ".*", `\?`, ".").Replace(text)
	re, err := regexp.Compile("^(?s:" + text + ")$")
	return Pattern{re}, err
}

// objectsOf returns the folder of a repository, and that of its objects. DIR is bare, or has a folder .git.
func objectsOf(dir string) (repo, objects string, err error) {
	for _, repo := range []string{dir, filepath.Join(dir, ".git")} {
		if fi, err := os.Stat(filepath.Join(repo, "objects")); err != nil || !fi.IsDir() {
			continue
		}
		if _, err := os.Stat(filepath.Join(repo, "reftable")); err == nil {
			return "", "", fmt.Errorf("%s: its refs are in a reftable, which narbor does not read", repo)
		}
		text, err := readSmall(filepath.Join(repo, "objects/info/alternates"), maxShallow)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", "", err
		}
		if len(text) > 0 {
			return "", "", fmt.Errorf("%s borrows objects from another repository (objects/info/alternates): git repack -a -d -f && "+
				"rm objects/info/alternates ends that", repo)
		}
		objects, err = filepath.Abs(filepath.Join(repo, "objects"))
		return repo, objects, err
	}
	return "", "", fmt.Errorf("%s is no git repository that can be read: it has no folder objects", dir)
}

// refsOf returns the objects that the refs of a repository point to whose names match one of the patterns, each once, sorted by
// the names of the refs. All have IDs of one length.
func refsOf(repo string, patterns []Pattern) ([]oid, error) {
	found := map[string]oid{}
	if err := packedRefs(filepath.Join(repo, "packed-refs"), found); err != nil {
		return nil, err
	}
	err := filepath.WalkDir(filepath.Join(repo, "refs"), func(file string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		name, err := filepath.Rel(repo, file)
		if err != nil {
			return err
		}
		text, err := readSmall(file, 1000)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it is being packed
		}
		if id, bad := parseOID(strings.TrimSpace(string(text))); err == nil && bad == nil { // else it points to another ref
			found[filepath.ToSlash(name)] = id
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	var names []string
	for name := range found {
		if slices.ContainsFunc(patterns, func(p Pattern) bool { return p.re.MatchString(name) }) {
			names = append(names, name)
		}
	}
	if len(names) > maxRefs {
		return nil, fmt.Errorf("%s: %d refs match, and %d are the most", repo, len(names), maxRefs)
	}
	slices.Sort(names)
	var ids []oid
	seen := map[oid]bool{}
	for _, name := range names {
		id := found[name]
		if len(ids) > 0 && len(id) != len(ids[0]) {
			return nil, fmt.Errorf("%s: object IDs of two lengths", repo)
		}
		if !seen[id] {
			seen[id], ids = true, append(ids, id)
		}
	}
	return ids, nil
}

// packedRefs adds the refs of a file packed-refs, if there is one.
func packedRefs(file string, found map[string]oid) error {
	f, err := openRegular(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(io.LimitReader(f, maxPackedRefs))
	for lines.Scan() {
		first, name, ok := strings.Cut(lines.Text(), " ")
		if id, err := parseOID(first); ok && err == nil { // else a comment, or what a tag points to
			found[name] = id
		}
	}
	return lines.Err()
}

// shallowOf returns the file that says where the history of a shallow clone ends; nil if the clone is none.
func shallowOf(repo string) ([]byte, error) {
	text, err := readSmall(filepath.Join(repo, "shallow"), maxShallow)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for line := range strings.Lines(string(text)) {
		if _, bad := parseOID(strings.TrimSuffix(line, "\n")); err == nil && bad != nil {
			err = fmt.Errorf("%s/shallow: %w", repo, bad)
		}
	}
	return text, err
}

// readSmall reads a file of at most so many bytes.
func readSmall(file string, most int64) ([]byte, error) {
	f, err := openRegular(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(text)) > most {
		err = fmt.Errorf("%s: more than %d bytes", file, most)
	}
	return text, err
}

// openRegular opens a file, and does not wait for a writer should it be a pipe.
func openRegular(file string) (*os.File, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		f.Close()
		return nil, errors.Join(fmt.Errorf("%s is no file", file), err)
	}
	return f, nil
}
