package bincache

import (
	"path/filepath"
	"slices"
	"strings"

	"narbor/store"
)

// Signers says which keys have signed the paths of a cache.
type Signers struct {
	Paths    int      // that were read
	Unsigned int      // of these, without any signature
	Names    []string // of the keys, sorted
}

// Signers reads at most limit narinfo files, and at most 16 times as many names of files. It leaves out files that it
// cannot read.
func (c *Cache) Signers(limit int) (s Signers, err error) {
	root, err := c.root()
	if err != nil {
		return s, err
	}
	defer root.Close()
	dir, err := root.Open(".")
	if err != nil {
		return s, c.fail(err)
	}
	defer dir.Close()
	entries, err := dir.ReadDir(16 * limit)
	if len(entries) == 0 && err != nil {
		return s, nil // it is empty
	}
	for _, e := range entries {
		if s.Paths == limit || filepath.Ext(e.Name()) != ".narinfo" {
			continue
		}
		text, err := c.readFile(root, e.Name(), store.MaxInfoLen)
		if err != nil {
			continue
		}
		info, err := store.ParseInfo(text)
		if err != nil {
			continue
		}
		s.Paths++
		if len(info.Signatures) == 0 {
			s.Unsigned++
		}
		for _, sig := range info.Signatures {
			name, _, _ := strings.Cut(sig, ":")
			s.Names = append(s.Names, name)
		}
	}
	slices.Sort(s.Names)
	s.Names = slices.Compact(s.Names)
	return s, nil
}
