package lan

import (
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// captureBuffer holds frames that arrive while a busy computer does not schedule the capture.
	captureBuffer = 256 << 20
	// maxFrame exceeds the longest frame of segmentation offload.
	maxFrame = 1 << 18
)

// A Capture is all frames on a host's cable, in both directions.
type Capture struct {
	host   *Host
	fd     int
	stop   chan struct{}
	done   chan error
	frames [][]byte
}

// Capture begins to capture on the bridge's end of the host's cable.
func (h *Host) Capture() (*Capture, error) {
	c := &Capture{host: h, stop: make(chan struct{}), done: make(chan error, 1)}
	err := h.lan.bridge.do(func() (err error) {
		every := uint16(unix.ETH_P_ALL>>8 | unix.ETH_P_ALL&0xff<<8) // in network order
		if c.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(every)); err != nil {
			return err
		}
		port, err := net.InterfaceByName(h.port)
		if err != nil {
			return err
		}
		return errors.Join(
			unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, captureBuffer),
			unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000}),
			unix.Bind(c.fd, &unix.SockaddrLinklayer{Protocol: every, Ifindex: port.Index}))
	})
	if err != nil {
		return nil, fmt.Errorf("%s: capture: %w", h.Name, err)
	}
	go func() { c.done <- c.run() }()
	return c, nil
}

// run reads frames. After stop it reads the remaining frames and returns.
func (c *Capture) run() error {
	defer unix.Close(c.fd)
	buf := make([]byte, maxFrame)
	for {
		n, _, err := unix.Recvfrom(c.fd, buf, unix.MSG_TRUNC)
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			select {
			case <-c.stop:
				stats, err := unix.GetsockoptTpacketStats(c.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
				if err == nil && stats.Drops > 0 {
					err = fmt.Errorf("%d of %d frames were lost", stats.Drops, stats.Packets)
				}
				return err
			default:
			}
		case err != nil:
			return err
		case n > len(buf):
			return fmt.Errorf("a frame of %d bytes", n)
		default:
			c.frames = append(c.frames, append([]byte(nil), buf[:n]...))
		}
	}
}

// Stop ends the capture and returns its frames. It returns an error if the kernel has dropped a frame.
func (c *Capture) Stop() ([][]byte, error) {
	close(c.stop)
	select {
	case err := <-c.done:
		if err != nil {
			return nil, fmt.Errorf("%s: capture: %w", c.host.Name, err)
		}
		return c.frames, nil
	case <-time.After(AtMost(readyTimeout)):
		return nil, fmt.Errorf("%s: capture: it does not end", c.host.Name)
	}
}
