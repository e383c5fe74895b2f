package main

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"narbor/narserve"
	"narbor/store"
)

const (
	// signersLooked bounds the paths of a cache directory that are looked at: they are a sample.
	signersLooked = 64
	// signersKept is for how long what was found counts: each look may wake the disk of a NAS.
	signersKept = time.Hour
)

// cacheSigners remembers which keys have signed what is in the cache directories.
type cacheSigners struct {
	mu    sync.Mutex // guards the rest
	at    time.Time
	found []store.CacheSigners // one for each cache
}

func (c *cacheSigners) of(caches []*store.Cache) []store.CacheSigners {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at.IsZero() || time.Since(c.at) > signersKept {
		c.at, c.found = time.Now(), nil
		for _, cache := range caches {
			s, err := cache.Signers(signersLooked)
			if err != nil {
				s = store.CacheSigners{} // it may be mounted later
			}
			c.found = append(c.found, s)
		}
	}
	return c.found
}

// cacheHealth says that a cache directory has nothing that any trusted key has signed.
func (s *service) cacheHealth(st Status) *narserve.Health {
	for i, found := range s.signers.of(s.shares.caches) {
		if found.Paths == 0 || slices.ContainsFunc(found.Names, func(name string) bool { return slices.Contains(st.Keys, name) }) {
			continue
		}
		h := &narserve.Health{Code: "cache-not-trusted", Severity: narserve.SeverityWarning, Title: "Neighbours get nothing from a cache directory",
			Text: fmt.Sprintf("None of %s in %s has a signature.", plural(found.Paths, "path"), s.shares.cacheDirs[i]),
			Fix:  "Let the machine that fills it sign: nix store sign, or secret-key-files in its nix.conf."}
		if len(found.Names) > 0 {
			h.Text = fmt.Sprintf("All of %s looked at in %s are signed by %s alone, and this machine trusts no key of that name.",
				plural(found.Paths, "path"), s.shares.cacheDirs[i], strings.Join(found.Names, ", "))
			h.Fix = "If it is yours, give narbor that key by --trusted-key, or add it to trusted-public-keys in nix.conf."
		}
		return h
	}
	return nil
}
