package gitstore

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"narbor/store"
	"narbor/store/statefile"
)

const (
	// refsEvery is how often the refs are looked at.
	refsEvery = 15 * time.Second
	// maxCommits bounds the history that is looked at, and maxTrees the trees of it that are looked through each time.
	maxCommits, maxTrees = 100_000, 10_000
	// maxKnown bounds the trees that are remembered.
	maxKnown = 2 * maxTrees
	// renewTime bounds the work of one renewal: a tree of nixpkgs takes some seconds, a small one milliseconds.
	renewTime = 10 * time.Minute
	// hashTime bounds the time that reading the archive of one tree takes: a tree may have a file many times, and be
	// far larger than the repository.
	hashTime = 2 * time.Minute
	// saveEvery is how often the index is saved meanwhile.
	saveEvery = time.Minute
	// maxIndexBytes bounds the file of the index.
	maxIndexBytes = 16 << 20
	// pieceSize is how much of an archive is read at a time.
	pieceSize = 1 << 20
)

// A line is a tree in the file of the index.
type line struct {
	Tree    string `json:"tree"`
	NarHash string `json:"narHash,omitempty"`
	NarSize int64  `json:"narSize,omitempty"`
	Why     string `json:"why,omitempty"`
}

// Run looks for the refs, and looks again when they have moved, until ctx ends.
func (s *Store) Run(ctx context.Context) error {
	defer s.Close()
	r := renewal{Store: s}
	for tick := time.NewTicker(cmp.Or(s.cfg.Every, refsEvery)); ; {
		r.step(ctx)
		select {
		case <-ctx.Done():
			tick.Stop()
			return ctx.Err()
		case <-tick.C:
			s.git.stop(false) // git repack may have replaced what they have open
		}
	}
}

// A renewal finds out which trees the refs lead to. It is owned by the goroutine that calls Run.
type renewal struct {
	*Store
	loaded bool
	tips   []oid
	failed string
}

// step looks at the refs, and at the trees that they lead to if they have moved.
func (r *renewal) step(ctx context.Context) {
	err := r.renew(ctx)
	if ctx.Err() != nil {
		return
	}
	if err == nil {
		r.failed = ""
		return
	}
	r.tips = nil // it is tried again
	if r.failed != err.Error() {
		r.failed = err.Error()
		r.set(func(st *Status) { st.Err = err })
	}
}

// set changes the status, and tells of it.
func (r *renewal) set(change func(*Status)) {
	r.mu.Lock()
	r.status.Dir = r.cfg.Dir
	change(&r.status)
	st := r.status
	r.mu.Unlock()
	r.cfg.Changed(st)
}

func (r *renewal) renew(ctx context.Context) error {
	repo, objects, err := objectsOf(r.cfg.Dir)
	if err != nil {
		r.forget()
		return err
	}
	tips, err := refsOf(repo, r.cfg.Refs)
	if err != nil {
		r.forget()
		return err
	}
	if r.loaded && slices.Equal(tips, r.tips) && r.tips != nil {
		return nil
	}
	if len(tips) == 0 {
		r.forget()
		return fmt.Errorf("%s: no ref matches --git-refs", r.cfg.Dir)
	}
	shallow, err := shallowOf(repo)
	if err != nil {
		return err
	}
	r.git.objects = objects
	if err := r.git.prepare(len(tips[0]), shallow); err != nil {
		return err
	}
	if !r.loaded {
		r.load()
		r.loaded = true
	}
	trees, err := r.trees(ctx, tips)
	if len(trees) == 0 {
		r.forget()
		return cmp.Or(err, fmt.Errorf("%s: no commit that a named ref leads to can be read", r.cfg.Dir))
	}
	r.tips = tips
	r.tell(trees)
	moved := func() bool {
		now, err := refsOf(repo, r.cfg.Refs)
		return err != nil || !slices.Equal(now, tips)
	}
	if lookErr := r.look(ctx, trees, moved); lookErr != nil {
		return lookErr
	}
	r.set(func(st *Status) { st.Err = err })
	return nil
}

// forget ends sharing.
func (r *renewal) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.parts)
	r.status.Trees, r.status.Refused, r.status.Waiting = 0, 0, 0
}

// trees returns the trees of the tips, then those of their history. With an error, it may have some.
func (r *renewal) trees(ctx context.Context, tips []oid) (trees []oid, err error) {
	ctx, cancel := context.WithTimeout(ctx, renewTime)
	defer cancel()
	var input strings.Builder
	for _, tip := range tips {
		input.WriteString(tip.String() + "\n")
	}
	seen := map[oid]bool{}
	each := func(text string) error {
		if strings.HasPrefix(text, "commit ") {
			return nil
		}
		tree, err := parseOID(text)
		if err == nil && !seen[tree] {
			seen[tree] = true
			trees = append(trees, tree)
		}
		return err
	}
	for _, how := range []string{"--no-walk=unsorted", fmt.Sprintf("--max-count=%d", maxCommits)} {
		if err = r.git.lines(ctx, input.String(), each, "rev-list", how, "--ignore-missing", "--format=%T", "--stdin"); err != nil {
			break
		}
	}
	return trees, err
}

// tell shares those of trees that are known, and no others. It forgets other known trees if there are too many.
func (r *renewal) tell(trees []oid) {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.parts)
	st := Status{Dir: r.cfg.Dir, Err: r.status.Err}
	kept := map[oid]*known{}
	for _, tree := range trees {
		k := r.known[tree]
		switch {
		case k == nil && st.Waiting < maxTrees:
			st.Waiting++
		case k != nil && k.broken && st.Waiting < maxTrees: // its objects may have come since
			st.Waiting++
		case k != nil && len(kept) < maxKnown:
			kept[tree] = k
			r.add(tree, k, &st)
		}
	}
	r.known, r.status = kept, st
}

// add shares a tree, or remembers why it is not. mu is held.
func (r *renewal) add(tree oid, k *known, st *Status) {
	if k.why == "" {
		st.Trees++
	} else {
		st.Refused++
	}
	if !k.path.IsZero() {
		r.parts[k.path.HashPart()] = told{tree, false, k}
		r.parts[gitPath(tree).HashPart()] = told{tree, true, k}
	}
}

// look looks through the trees that are not known, until the refs have moved.
func (r *renewal) look(ctx context.Context, trees []oid, moved func() bool) error {
	began, saved, checked, worked := time.Now(), time.Now(), time.Now(), 0
	for _, tree := range trees {
		if worked == maxTrees || time.Since(began) > renewTime || ctx.Err() != nil {
			break
		}
		if every := cmp.Or(r.cfg.Every, refsEvery); time.Since(checked) > every {
			if moved() {
				break
			}
			checked = time.Now()
		}
		if r.known[tree] != nil { // written by this goroutine alone
			continue
		}
		start := time.Now()
		k, err := r.examine(ctx, tree)
		if err != nil {
			return err
		}
		worked++
		r.mu.Lock()
		if len(r.known) < maxKnown {
			r.known[tree] = k
			r.add(tree, k, &r.status)
		}
		r.status.Waiting--
		r.mu.Unlock()
		if time.Since(saved) > saveEvery {
			if err := r.save(); err != nil {
				return err
			}
			saved = time.Now()
		}
		rest(ctx, time.Since(start)) // half of a processor is for others
	}
	if worked == 0 {
		return nil
	}
	return r.save()
}

func rest(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// examine reads all of a tree. The error means that it has to be tried again.
func (r *renewal) examine(ctx context.Context, tree oid) (*known, error) {
	o, err := r.outline(tree)
	if err == nil {
		within, cancel := context.WithTimeout(ctx, hashTime)
		defer cancel()
		var k *known
		if k, err = r.hash(within, o); err == nil {
			return k, nil
		}
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			err = errSlow
		}
	}
	if errors.Is(err, errTooLarge) || errors.Is(err, store.ErrMalformed) {
		return &known{why: brief(err)}, nil
	}
	if errors.Is(err, store.ErrCorrupt) || errors.Is(err, errSlow) {
		return &known{why: brief(err), broken: true}, nil
	}
	return nil, fmt.Errorf("tree %s of %s: %w", tree, r.cfg.Dir, err)
}

// brief is the text of an error, which may have a name out of the repository in it, for the index.
func brief(err error) string { return fmt.Sprintf("%.300s", err) }

func (r *renewal) hash(ctx context.Context, o *outline) (*known, error) {
	sum, buf := sha256.New(), make([]byte, min(o.Size(), pieceSize))
	k := &known{narSize: o.Size()}
	read := func(content uint32, p []byte, off int64) error {
		body, err := r.blob(o, content)
		if err != nil {
			return err
		}
		if isPointer(body) {
			o.refuse("it has files that are kept elsewhere (git LFS)")
		}
		copy(p, body[off:])
		return nil
	}
	for off := int64(0); off < o.Size(); {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		n, err := o.ReadAt(buf[:min(int64(len(buf)), o.Size()-off)], off, read)
		if err != nil {
			return nil, err
		}
		sum.Write(buf[:n])
		off += int64(n)
	}
	k.narHash = store.Hash(sum.Sum(nil))
	k.path, k.why = pathOf(k.narHash), o.why
	return k, nil
}

func (r *renewal) indexFile() string { return filepath.Join(r.cfg.State, "index.json") }

// load reads the index. One that cannot be read is made anew.
func (r *renewal) load() {
	var lines []line
	if err := statefile.Read(r.indexFile(), maxIndexBytes, &lines); err != nil {
		r.set(func(st *Status) { st.Err = fmt.Errorf("the index begins anew: %w", err) })
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range lines {
		tree, err := parseOID(l.Tree)
		k := &known{why: l.Why}
		if err == nil && l.NarHash != "" {
			k.narHash, err = store.ParseHash(l.NarHash)
			k.narSize, k.path = l.NarSize, pathOf(k.narHash)
		}
		if err == nil && (l.Why != "" || l.NarSize > 0 && l.NarHash != "") {
			r.known[tree] = k
		}
	}
}

func (r *renewal) save() error {
	r.mu.Lock()
	lines := make([]line, 0, len(r.known))
	for tree, k := range r.known {
		if k.broken {
			continue
		}
		l := line{Tree: tree.String(), Why: k.why}
		if !k.path.IsZero() {
			l.NarHash, l.NarSize = k.narHash.String(), k.narSize
		}
		lines = append(lines, l)
	}
	r.mu.Unlock()
	slices.SortFunc(lines, func(a, b line) int { return strings.Compare(a.Tree, b.Tree) })
	if err := os.MkdirAll(r.cfg.State, 0o700); err != nil {
		return err
	}
	return statefile.Write(r.indexFile(), lines)
}
