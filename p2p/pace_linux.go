package p2p

import "golang.org/x/sys/unix"

// delivery returns tcpi_delivery_rate in bytes per second, and tcpi_bytes_acked (see tcp(7) and Linux's tcp_rate.c). For
// the rate the kernel keeps the last sample that was not limited by the application, or a higher one that was.
func delivery(fd int) (rate, acked int64, err error) {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0, 0, err
	}
	return int64(info.Delivery_rate), int64(info.Bytes_acked), nil
}
