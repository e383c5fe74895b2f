//go:build !linux

package transport

func isForbidden() bool { return false }
