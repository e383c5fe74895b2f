package nar

import (
	"fmt"
	"strings"

	"narbor/store"
)

// An Archive is what a narinfo file of a binary cache says of the archive: where it is, and its compression.
type Archive struct {
	URL         string // relative to the cache
	Compression string // "none", "xz", …
}

// ParseNarinfo reads the narinfo file that a binary cache has for a hash part: the claim, and where its archive is. The
// error wraps [store.ErrCorrupt].
func ParseNarinfo(hp store.HashPart, text string) (store.Info, Archive, error) {
	info, err := store.ParseInfo(text)
	if err != nil {
		return info, Archive{}, fmt.Errorf("%w: %w", store.ErrCorrupt, err)
	}
	if info.Path.HashPart() != hp {
		return info, Archive{}, fmt.Errorf("%w: it is about %s", store.ErrCorrupt, info.Path)
	}
	a := Archive{Compression: "bzip2"}      // what Nix takes for granted
	for line := range strings.Lines(text) { // FileSize and FileHash say nothing that Nix would rely on
		switch key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": "); key {
		case "URL":
			a.URL = value
		case "Compression":
			a.Compression = value
		}
	}
	return info, a, nil
}
