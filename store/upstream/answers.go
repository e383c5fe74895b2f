package upstream

import (
	"fmt"
	"net/url"
	"path"
	"strings"
	"time"

	"narbor/store"
	"narbor/store/lru"
	"narbor/store/nar"
)

// answers are a cache's answers about paths, as far as they are remembered or kept.
type answers struct {
	kept    *keptInfos
	pages   *lru.Cache[store.HashPart, page]
	misses  *lru.Cache[store.HashPart, time.Time]
	refused refusals
}

// A page is a narinfo: the claim, and where its archive is.
type page struct {
	nar.Archive
	info store.Info
	text string
}

func (a *answers) recall(hp store.HashPart) (page, bool) {
	if p, ok := a.pages.Get(hp); ok {
		return p, true
	}
	text, ok := a.kept.get(hp)
	if !ok {
		return page{}, false
	}
	p, err := parsePage(hp, text)
	if err != nil {
		a.kept.forget(hp)
		return page{}, false
	}
	a.pages.Add(hp, p)
	return p, true
}

// parsePage reads a narinfo. The error wraps ErrNotFound if its archive is of no use, and ErrCorrupt if it is none.
func parsePage(hp store.HashPart, text string) (p page, err error) {
	p.text = text
	if p.info, p.Archive, err = nar.ParseNarinfo(hp, text); err != nil {
		return p, err
	}
	if !nar.Unpackable(p.Compression) {
		return p, fmt.Errorf("%w: %w: compression %.40q, and not none, xz or zstd", store.ErrNotFound, store.ErrUnreadable, p.Compression)
	}
	ref, err := url.Parse(p.URL)
	if err != nil || p.URL == "" || ref.IsAbs() || ref.Host != "" || strings.HasPrefix(ref.Path, "/") || path.Clean(ref.Path) != ref.Path ||
		strings.HasPrefix(ref.Path, "..") {
		return p, fmt.Errorf("%w: %w: its URL %.80q is not below the cache's own", store.ErrNotFound, store.ErrUnreadable, p.URL)
	}
	return p, nil
}
