//go:build !linux

package gitstore

// limitMemory does nothing: no other system bounds the memory of a process that has been started.
func limitMemory(int, uint64) {}
