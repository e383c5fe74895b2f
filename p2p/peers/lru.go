package peers

import (
	lru "github.com/hashicorp/golang-lru/v2"
)

// NewCache returns a cache of so many entries, at least one; of more, the one that was used least recently is forgotten.
func NewCache[K comparable, V any](size int) *lru.Cache[K, V] {
	c, err := lru.New[K, V](size)
	if err != nil { // only for a size below 1
		panic(err)
	}
	return c
}
