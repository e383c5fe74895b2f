package wire

import (
	"errors"
	"io"
)

// ErrWire is the error of a message that breaks the wire format.
var ErrWire = errors.New("wire format violated")

// noEOF is for places where the stream must not end.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// status is the first byte of the answer to a block request.
type status byte

const (
	statusGone status = 0
	statusRaw  status = 1
	statusS2   status = 2
	statusZstd status = 3
	// statusLater says that the block is not here yet.
	statusLater status = 4
	// relayed is a bit added to the status of a block that its sender has not verified, because the NAR is still being
	// received.
	relayed status = 4
)

// ErrLater says that a neighbour will have a block later. Its value is the status of that answer.
const ErrLater = later(statusLater)

type later status

func (later) Error() string { return "not here yet" }
