package main

// Exit codes, beside 0.
const (
	exitFailure    = 1
	exitUsage      = 2
	exitNotRunning = 3
	exitDegraded   = 4 // it works, but not as well as it could
	exitNotFound   = 5
	exitTemporary  = 75 // try again later
)

// An exitError is an error and the exit code of the command that ends with it.
type exitError struct {
	err  error
	code int
}

func (e exitError) Error() string { return e.err.Error() }
func (e exitError) Unwrap() error { return e.err }

// withCode returns an error that ends a command with an exit code.
func withCode(err error, code int) error { return exitError{err, code} }
