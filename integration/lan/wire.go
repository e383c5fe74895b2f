package lan

import (
	"context"
	"fmt"
)

// Wire is the traffic on a host's cable, in bytes of Ethernet frames.
type Wire struct{ In, Out int64 }

// Wire returns the traffic on the host's cable since it was plugged in.
func (h *Host) Wire(ctx context.Context) (Wire, error) {
	const dir = "/sys/class/net/eth0/statistics/"
	out, err := h.Run(ctx, "cat", dir+"rx_bytes", dir+"tx_bytes")
	if err != nil {
		return Wire{}, err
	}
	var w Wire
	_, err = fmt.Sscan(out, &w.In, &w.Out)
	return w, err
}
