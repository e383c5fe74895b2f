package gitstore

import "golang.org/x/sys/unix"

// limitMemory bounds the private memory of a process. It fails only if the process has ended.
func limitMemory(pid int, most uint64) {
	_ = unix.Prlimit(pid, unix.RLIMIT_DATA, &unix.Rlimit{Cur: most, Max: most}, nil)
}
