//go:build !linux

package netmon

import (
	"context"
	"net"
	"net/netip"
	"time"

	"go.uber.org/zap"
)

func interfaceAddrs(ifis []net.Interface) map[int][]netip.Prefix { return plainInterfaceAddrs(ifis) }

func interfaceAdapters(ifis []net.Interface) []adapter { return plainAdapters(ifis) }

// subscribeInterfaces asks for a look every two seconds: cheap enough, and soon enough for a laptop that roams.
func subscribeInterfaces(ctx context.Context, _ *zap.Logger, hints chan<- struct{}) {
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			Hint(hints)
		}
	}
}
