package demo

import (
	"os/exec"
	"runtime"
	"syscall"
)

// apart keeps Ctrl-C from the process, which the demo stops itself, and ends the process if the demo is killed.
func apart() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// startWithParent starts a process from a thread that lives as long as this program: Linux sends Pdeathsig when the
// thread ends that has started the process (prctl(2)), and Go ends idle threads only if a goroutine is locked to them.
func startWithParent(cmd *exec.Cmd) error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		started <- cmd.Start()
		select {} // the thread stays
	}()
	return <-started
}
