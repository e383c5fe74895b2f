//go:build !linux

package nixconf

import "context"

// WatchFiles watches nothing: its caller also checks the files at intervals.
func WatchFiles(context.Context, []string) <-chan struct{} { return nil }
