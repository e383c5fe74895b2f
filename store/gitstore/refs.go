package gitstore

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"narbor/store/statefile"
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
	for _, repo := range []string{filepath.Join(dir, ".git"), dir} { // a working copy may have a folder objects
		if !isRepository(repo) {
			continue
		}
		if _, err := os.Stat(filepath.Join(repo, "reftable")); err == nil {
			return "", "", fmt.Errorf("%s: its refs are in a reftable, which narbor does not read", repo)
		}
		text, _, err := statefile.ReadText(filepath.Join(repo, "objects/info/alternates"), maxShallow)
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
	return "", "", fmt.Errorf("%s is no git repository that can be read: it has no HEAD and no folder objects", dir)
}

func isRepository(repo string) bool {
	objects, err := os.Stat(filepath.Join(repo, "objects"))
	_, noHead := os.Lstat(filepath.Join(repo, "HEAD")) // in old repositories, a symbolic link to a ref that may be missing
	return err == nil && objects.IsDir() && noHead == nil
}

// refsOf returns the objects that a repository's refs point to, each once, sorted by the names of the refs. Only refs with a
// name that matches one of the patterns count. All IDs have one length.
func refsOf(repo string, patterns []Pattern) ([]oid, error) {
	found := map[string]oid{}
	add := func(name, id string) error {
		if !slices.ContainsFunc(patterns, func(p Pattern) bool { return p.re.MatchString(name) }) {
			return nil
		}
		// Other text than an ID is a comment, the name of another ref, or the object of a tag.
		if id, err := parseOID(id); err == nil {
			found[name] = id
		}
		if len(found) > maxRefs {
			return fmt.Errorf("%s: more than %d refs match", repo, maxRefs)
		}
		return nil
	}
	if err := errors.Join(packedRefs(filepath.Join(repo, "packed-refs"), add), looseRefs(repo, add)); err != nil {
		return nil, err
	}
	var ids []oid
	seen := map[oid]bool{}
	for _, name := range slices.Sorted(maps.Keys(found)) {
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

// looseRefs hands the refs that have a file of their own to add. Files called .lock are of a change that git has not
// made yet.
func looseRefs(repo string, add func(name, id string) error) error {
	return filepath.WalkDir(filepath.Join(repo, "refs"), func(file string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // git removes empty folders
		}
		if err != nil || !d.Type().IsRegular() || strings.HasSuffix(file, ".lock") {
			return err
		}
		name, err := filepath.Rel(repo, file)
		if err != nil {
			return err
		}
		text, _, err := statefile.ReadText(file, 1000)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it is being packed
		}
		if err != nil {
			return err
		}
		return add(filepath.ToSlash(name), strings.TrimSpace(string(text)))
	})
}

// packedRefs hands the refs of a file packed-refs, if there is one, to add.
func packedRefs(file string, add func(name, id string) error) error {
	f, st, err := statefile.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if st.Size() > maxPackedRefs {
		return fmt.Errorf("%s is longer than %d bytes", file, maxPackedRefs)
	}
	lines := bufio.NewScanner(io.LimitReader(f, maxPackedRefs))
	for lines.Scan() {
		id, name, ok := strings.Cut(lines.Text(), " ")
		if !ok {
			continue
		}
		if err := add(name, id); err != nil {
			return err
		}
	}
	return lines.Err()
}

// shallowOf returns the file that says where the history of a shallow clone ends; nil if the clone is none.
func shallowOf(repo string) ([]byte, error) {
	text, _, err := statefile.ReadText(filepath.Join(repo, "shallow"), maxShallow)
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
