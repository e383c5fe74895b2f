package transport

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// muxerAlive is the interval at which both ends of a connection check each other by yamux. The kernel finds out
	// much sooner whether the machine is there, see [watchOver]; and no request waits long for a program that has
	// halted.
	muxerAlive = 15 * time.Minute
	// The kernel sends a packet when nothing has come for probeAfter, again after probeGap, and gives up when that has
	// gone on for giveUp, which is also how long what was sent may stay unacknowledged. So two packets may be lost, and
	// a pulled cable is noticed after 4 s, or after 8 s if something was sent meanwhile.
	probeAfter, probeGap, giveUp = 2 * time.Second, time.Second, 3500 * time.Millisecond
)

// watchOver lets the kernel notice that the other machine has gone. That costs a fraction of what yamux takes for it,
// which wakes both programs and encrypts twice for each of them.
func watchOver(fd int) error {
	return errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1),
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, int(probeAfter/time.Second)),
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, int(probeGap/time.Second)),
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(giveUp/time.Millisecond)))
}
