package gitstore

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"narbor/store"
	"narbor/store/nar"
)

// maxNodes bounds the files and folders of a tree. Nixpkgs has 85,000, Linux 100,000; so many take 22 MB of memory.
const maxNodes = 300_000

// maxTarget is the longest target of a symlink that Nix takes.
const maxTarget = 4095

// outlineTime bounds the time that reading the objects of an outline takes, but for the last of them. Nixpkgs takes two
// seconds.
const outlineTime = time.Minute

// errSlow is the error of a tree that takes longer to be read than it may.
var errSlow = errors.New("it takes too long to be read")

type entry struct {
	mode string
	name string
	id   oid
}

// maxName is the length in bytes of the longest name of a file that Linux and Nix allow. maxTreesBytes bounds the tree
// objects of one archive, which are in memory together: those of nixpkgs have 3 MB.
const (
	maxName       = 255
	maxTreesBytes = 64 << 20
)

const (
	modeFile       = "100644"
	modeExecutable = "100755"
	modeGroupFile  = "100664" // of old versions of git; it means the same as 100644
	modeSymlink    = "120000"
	modeTree       = "40000"
	modeSubmodule  = "160000"
)

// parseTree reads a tree object with IDs of idLen bytes: as git writes it, with all names different and in git's order.
func parseTree(b []byte, idLen int) (entries []entry, err error) {
	text := string(b) // names and IDs are parts of it
	last := ""
	for len(text) > 0 {
		mode, rest, ok := strings.Cut(text, " ")
		name, rest, named := strings.Cut(rest, "\x00")
		if !ok || !named || len(rest) < idLen {
			return nil, fmt.Errorf("a tree object breaks off: %w", store.ErrCorrupt)
		}
		if len(name) > maxName {
			return nil, fmt.Errorf("a tree has a name of %d bytes, and Nix allows %d: %w", len(name), maxName, store.ErrCorrupt)
		}
		e := entry{mode, name, oid(rest[:idLen])}
		text = rest[idLen:]
		order := name
		switch mode {
		case modeTree:
			order += "/"
		case modeFile, modeExecutable, modeGroupFile, modeSymlink, modeSubmodule:
		default:
			return nil, fmt.Errorf("%.80q has the mode %.20q: %w", name, mode, store.ErrCorrupt)
		}
		if strings.EqualFold(name, ".git") {
			return nil, fmt.Errorf("a tree has the name %q: %w", name, store.ErrCorrupt)
		}
		if order <= last {
			return nil, fmt.Errorf("a tree has %.80q after %.80q: %w", name, last, store.ErrCorrupt)
		}
		last, entries = order, append(entries, e)
	}
	// NARs have the order of the bare names.
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	return entries, nil
}

// An outline is the archive of a tree, with the IDs of the blobs in it, by the numbers that it has for them.
type outline struct {
	*nar.Outline
	blobs []byte // IDs, end to end
	sizes []int32
	idLen int
	why   string // it is refused: Nix would be given another content elsewhere; "" if it is not
}

func (o *outline) refuse(format string, args ...any) {
	if o.why == "" {
		o.why = fmt.Sprintf(format, args...)
	}
}

func (o *outline) blob(n uint32) oid { return oid(o.blobs[int(n)*o.idLen : (int(n)+1)*o.idLen]) }

func (o *outline) bytes() int64 { return o.Outline.Bytes() + int64(cap(o.blobs)+4*cap(o.sizes)) }

type outliner struct {
	git        *git
	idLen      int
	until      time.Time
	trees      map[oid][]entry
	entries    int // in trees
	bytes      int // of trees, as git stores them
	sizes      map[oid]int32
	attributes []oid // blobs called .gitattributes
	symlinks   []oid // blobs that are targets of symlinks

	out     *outline
	builder nar.OutlineBuilder
}

func outlineOf(g *git, tree oid) (*outline, error) {
	w := &outliner{git: g, until: time.Now().Add(outlineTime), idLen: len(tree), trees: map[oid][]entry{}, sizes: map[oid]int32{},
		out: &outline{idLen: len(tree)}, builder: nar.OutlineBuilder{MaxNodes: maxNodes}}
	err := w.load(tree)
	if err == nil {
		err = w.measure()
	}
	if err == nil {
		err = w.checkAttributes()
	}
	if err == nil {
		err = w.checkSymlinks()
	}
	if err == nil {
		err = w.walk("", tree)
	}
	if err != nil {
		return nil, err
	}
	w.out.blobs, w.out.sizes = slices.Clip(w.out.blobs), slices.Clip(w.out.sizes)
	w.out.Outline, err = w.builder.Outline()
	return w.out, err
}

// read is that of [git], within the time for an outline.
func (w *outliner) read(ids []oid, q query) error {
	each := q.each
	q.each = func(id oid, size int64, body []byte) error {
		if time.Now().After(w.until) {
			return errSlow
		}
		return each(id, size, body)
	}
	return w.git.read(ids, q)
}

// load reads all tree objects, one level after the other.
func (w *outliner) load(root oid) error {
	for level, depth := []oid{root}, 0; len(level) > 0; depth++ {
		if depth > 64 { // the outline allows fewer
			return fmt.Errorf("nested deeper than 64: %w", store.ErrCorrupt)
		}
		var next []oid
		err := w.read(level, query{kind: "tree", most: maxTreeBytes, each: func(id oid, _ int64, body []byte) error {
			entries, err := parseTree(body, w.idLen)
			if err != nil {
				return fmt.Errorf("tree %s: %w", id, err)
			}
			w.trees[id] = entries
			if w.entries += len(entries); w.entries > maxNodes {
				return fmt.Errorf("more than %d files: %w", maxNodes, errTooLarge)
			}
			if w.bytes += len(body); w.bytes > maxTreesBytes {
				return fmt.Errorf("more than %d bytes of tree objects: %w", maxTreesBytes, errTooLarge)
			}
			for _, e := range entries {
				if _, known := w.trees[e.id]; e.mode == modeTree && !known {
					w.trees[e.id] = nil
					next = append(next, e.id)
				}
			}
			return nil
		}})
		if err != nil {
			return err
		}
		level = next
	}
	return nil
}

func (w *outliner) measure() error {
	var ids []oid
	for _, entries := range w.trees {
		for _, e := range entries {
			if e.mode == modeTree || e.mode == modeSubmodule {
				continue
			}
			if _, known := w.sizes[e.id]; !known {
				w.sizes[e.id] = 0
				ids = append(ids, e.id)
			}
			if e.name == ".gitattributes" && e.mode != modeSymlink {
				w.attributes = append(w.attributes, e.id)
			}
			if e.mode == modeSymlink {
				w.symlinks = append(w.symlinks, e.id)
			}
		}
	}
	return w.read(ids, query{kind: "blob", most: maxBlobBytes, sizes: true, each: func(id oid, size int64, _ []byte) error {
		w.sizes[id] = int32(size)
		return nil
	}})
}

// checkAttributes refuses trees of which git archive, and so GitHub's tarballs, leave out or change files.
func (w *outliner) checkAttributes() error {
	slices.Sort(w.attributes)
	return w.read(slices.Compact(w.attributes), query{kind: "blob", most: maxTreeBytes, each: func(_ oid, _ int64, body []byte) error {
		for line := range bytes.Lines(body) {
			words := strings.Fields(string(line))
			if len(words) == 0 || strings.HasPrefix(words[0], "#") {
				continue
			}
			for _, word := range words[1:] {
				if name, _, _ := strings.Cut(word, "="); name == "export-subst" || name == "export-ignore" {
					w.out.refuse("its .gitattributes has %s, so that tarballs of it differ", name)
				}
			}
		}
		return nil
	}})
}

// checkSymlinks refuses targets that no file system can have.
func (w *outliner) checkSymlinks() error {
	slices.Sort(w.symlinks)
	return w.read(slices.Compact(w.symlinks), query{kind: "blob", most: maxTarget, each: func(id oid, size int64, body []byte) error {
		if size == 0 || bytes.IndexByte(body, 0) >= 0 {
			return fmt.Errorf("blob %s is no target of a symlink: %w", id, store.ErrCorrupt)
		}
		return nil
	}})
}

func (w *outliner) walk(name string, tree oid) error {
	if err := w.builder.Directory(name); err != nil {
		return err
	}
	for _, e := range w.trees[tree] {
		var err error
		size, n := w.sizes[e.id], uint32(len(w.out.sizes))
		switch e.mode {
		case modeTree:
			if err := w.walk(e.name, e.id); err != nil {
				return err
			}
			continue
		case modeSubmodule: // Nix and GitHub put an empty folder there, unless the submodule is asked for
			w.out.refuse("%q is a submodule", e.name)
			if err := w.builder.Directory(e.name); err != nil {
				return err
			}
			if err := w.builder.End(); err != nil {
				return err
			}
			continue
		case modeSymlink:
			err = w.builder.Symlink(e.name, int64(size), n)
		default:
			err = w.builder.File(e.name, int64(size), e.mode == modeExecutable, n)
		}
		if err != nil {
			return err
		}
		w.out.blobs, w.out.sizes = append(w.out.blobs, e.id...), append(w.out.sizes, size)
	}
	return w.builder.End()
}

// lfsHead begins a file that stands for a larger one elsewhere.
const lfsHead = "version https://git-lfs.github.com/spec/v1\n"

func isPointer(body []byte) bool { return len(body) < 1024 && bytes.HasPrefix(body, []byte(lfsHead)) }
