//go:build !linux

package demo

import (
	"os/exec"
	"syscall"
)

// apart keeps Ctrl-C from the process, which the demo stops itself.
func apart() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

func startWithParent(cmd *exec.Cmd) error { return cmd.Start() }
