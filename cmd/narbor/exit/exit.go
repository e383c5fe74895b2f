// Package exit has the exit codes of narbor's commands, and errors that end a command with one of them.
package exit

import "errors"

// Exit codes, beside 0.
const (
	Failure    = 1
	Usage      = 2
	NotRunning = 3
	Degraded   = 4 // it works, but not as well as it could
	NotFound   = 5
	Temporary  = 75 // try again later
)

// An Error is an error and the exit code of the command that ends with it.
type Error struct {
	err  error
	Code int
}

func (e Error) Error() string { return e.err.Error() }
func (e Error) Unwrap() error { return e.err }

// With returns an error that ends a command with an exit code.
func With(err error, code int) error { return Error{err, code} }

// Code returns the exit code for an error: Failure if it carries none, 0 for nil.
func Code(err error) int {
	if err == nil {
		return 0
	}
	if coded, ok := errors.AsType[Error](err); ok {
		return coded.Code
	}
	return Failure
}
