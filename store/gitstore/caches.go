package gitstore

import (
	"fmt"
	"slices"
	"sync"

	"narbor/store"
)

const (
	// maxOutlineBytes bounds the outlines that are remembered, but for one that is larger.
	maxOutlineBytes = 24 << 20
	// maxBlobsBytes bounds the blobs that are remembered, but for one that is larger: they are read in pieces.
	maxBlobsBytes = 8 << 20
)

// A reader reads trees and files of a repository, and remembers those that were used last.
type reader struct {
	git      *git
	outlines outlines
	blobs    blobs
}

// outlines are those that were used last. Making one takes a second for nixpkgs, so one is made at a time. The zero
// value is ready.
type outlines struct {
	mu    sync.Mutex // guards the rest; held while one is made
	trees []oid      // the one that was used last comes last
	of    map[oid]*outline
	bytes int64
}

func (r *reader) outline(tree oid) (*outline, error) {
	c := &r.outlines
	c.mu.Lock()
	defer c.mu.Unlock()
	if o := c.of[tree]; o != nil {
		i := slices.Index(c.trees, tree)
		c.trees = append(slices.Delete(c.trees, i, i+1), tree)
		return o, nil
	}
	o, err := outlineOf(r.git, tree)
	if err != nil {
		return nil, err
	}
	if c.of == nil {
		c.of = map[oid]*outline{}
	}
	c.trees, c.of[tree], c.bytes = append(c.trees, tree), o, c.bytes+o.bytes()
	for len(c.trees) > 1 && c.bytes > maxOutlineBytes {
		c.bytes -= c.of[c.trees[0]].bytes()
		delete(c.of, c.trees[0])
		c.trees = c.trees[1:]
	}
	return o, nil
}

// blobs are those that were read last, in the order in which they were read. The zero value is ready.
type blobs struct {
	mu    sync.Mutex // guards the rest
	ids   []oid
	of    map[oid][]byte
	bytes int64
}

// blob returns the contents of a file of an outline.
func (r *reader) blob(o *outline, content uint32) ([]byte, error) {
	id, c := o.blob(content), &r.blobs
	c.mu.Lock()
	body, ok := c.of[id]
	c.mu.Unlock()
	if ok {
		return body, nil
	}
	err := r.git.read([]oid{id}, query{kind: "blob", most: maxBlobBytes, each: func(_ oid, _ int64, b []byte) error {
		body = b
		return nil
	}})
	if err == nil && len(body) != int(o.sizes[content]) {
		err = fmt.Errorf("blob %s of %d bytes, want %d: %w", id, len(body), o.sizes[content], store.ErrCorrupt)
	}
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.of == nil {
		c.of = map[oid][]byte{}
	}
	if _, ok := c.of[id]; !ok {
		c.ids, c.of[id], c.bytes = append(c.ids, id), body, c.bytes+int64(len(body))
	}
	for len(c.ids) > 1 && c.bytes > maxBlobsBytes {
		c.bytes -= int64(len(c.of[c.ids[0]]))
		delete(c.of, c.ids[0])
		c.ids = c.ids[1:]
	}
	return body, nil
}
