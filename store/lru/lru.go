// Package lru makes caches of a fixed number of entries, which may be used concurrently.
package lru

import lru "github.com/hashicorp/golang-lru/v2"

// A Cache forgets the entry that was used least recently when it is full.
type Cache[K comparable, V any] = lru.Cache[K, V]

// New returns a cache of so many entries, at least one.
func New[K comparable, V any](size int) *Cache[K, V] {
	c, err := lru.New[K, V](size)
	if err != nil { // only for a size below 1
		panic(err)
	}
	return c
}
