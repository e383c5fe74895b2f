package transport

import (
	"time"

	"golang.org/x/sys/unix"
)

// deliveryOf asks the kernel for tcpi_delivery_rate and tcpi_bytes_acked (see tcp(7) and Linux's tcp_rate.c). For the
// rate it keeps the last sample that was not limited by the application, or a higher one that was.
func deliveryOf(fd int) (delivery, error) {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return delivery{}, err
	}
	return delivery{int64(info.Delivery_rate), int64(info.Bytes_acked), info.Notsent_bytes == 0 && info.Unacked == 0}, nil
}

// sinceAck returns how long ago the other machine's kernel acknowledged something last: tcpi_last_ack_recv, in
// milliseconds.
func sinceAck(fd int) (time.Duration, error) {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0, err
	}
	return time.Duration(info.Last_ack_recv) * time.Millisecond, nil
}
