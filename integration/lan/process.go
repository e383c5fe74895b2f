package lan

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

// A Process runs on a host in the background. Its output goes to a log, which further processes of the same name
// on the same host append to.
type Process struct {
	name string
	log  string
	proc *os.Process
	done chan struct{} // closed when the process has ended
	err  error         // how it ended; read after done
}

// start starts a long-running process.
func (h *Host) start(name string, c command) (*Process, error) {
	log, err := os.OpenFile(h.logFile(name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close() // the child has its own
	cmd := c.cmd(context.Background())
	cmd.Stdout, cmd.Stderr = log, log
	if err := h.ns.do(cmd.Start); err != nil {
		return nil, fmt.Errorf("%s: %s: %w", h.Name, name, err)
	}
	p := &Process{name: h.Name + "'s " + name, log: log.Name(), proc: cmd.Process, done: make(chan struct{})}
	go func() { // ends with the process, which the host's end ends
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// Pid returns the process ID in this computer's PID namespace.
func (p *Process) Pid() int { return p.proc.Pid }

// Log returns the process's output so far.
func (p *Process) Log() (string, error) {
	b, err := os.ReadFile(p.log)
	return string(b), err
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Kill ends the process with SIGKILL and waits for that.
func (p *Process) Kill() error { return p.end(syscall.SIGKILL, 10*time.Second) }

// Terminate ends the process with SIGTERM. It returns an error if that takes longer than patience, or if the process
// exits with an error.
func (p *Process) Terminate(patience time.Duration) error {
	if err := p.end(syscall.SIGTERM, patience); err != nil {
		return err
	}
	if p.err != nil {
		return fmt.Errorf("%s: after SIGTERM: %w", p.name, p.err)
	}
	return nil
}

func (p *Process) end(sig syscall.Signal, patience time.Duration) error {
	if err := p.proc.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(patience):
		return fmt.Errorf("%s: still there %s after %s", p.name, patience, sig)
	}
}

// Stop halts the process (SIGSTOP): its connections stay open and get no answers.
func (p *Process) Stop() error { return p.proc.Signal(syscall.SIGSTOP) }

// Continue resumes a stopped process (SIGCONT).
func (p *Process) Continue() error { return p.proc.Signal(syscall.SIGCONT) }
