package p2p

import "golang.org/x/sys/unix"

// deliveryRate returns tcpi_delivery_rate in bytes per second (see tcp(7) and Linux's tcp_rate.c). The kernel keeps
// the last sample that was not limited by the application, or a higher one that was.
func deliveryRate(fd int) (int64, error) {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0, err
	}
	return int64(info.Delivery_rate), nil
}
