package control

// Exit codes, beside 0.
const (
	ExitFailure    = 1
	ExitUsage      = 2
	ExitNotRunning = 3
	ExitDegraded   = 4 // it works, but not as well as it could
	ExitNotFound   = 5
	ExitTemporary  = 75 // try again later
)

// An ExitError is an error and the exit code of the command that ends with it.
type ExitError struct {
	err  error
	Code int
}

func (e ExitError) Error() string { return e.err.Error() }
func (e ExitError) Unwrap() error { return e.err }

// WithCode returns an error that ends a command with an exit code.
func WithCode(err error, code int) error { return ExitError{err, code} }
