package p2p

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// resubscribe is the pause after the kernel ended a subscription, or refused one.
const resubscribe = 2 * time.Second

// unusableAddr marks IPv6 addresses that are not yet, or no longer, this machine's own: nobody could reach it there.
const unusableAddr = unix.IFA_F_TENTATIVE | unix.IFA_F_DADFAILED | unix.IFA_F_DEPRECATED

// interfaceAddrs returns the usable addresses of each interface, by its index.
func interfaceAddrs(ifis []net.Interface) map[int][]netip.Prefix {
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return plainInterfaceAddrs(ifis)
	}
	out := make(map[int][]netip.Prefix, len(ifis))
	for _, a := range addrs {
		if a.Flags&unusableAddr != 0 || a.IPNet == nil {
			continue
		}
		if p, ok := prefixOf(a.IPNet); ok {
			out[a.LinkIndex] = append(out[a.LinkIndex], p)
		}
	}
	return out
}

// subscribeInterfaces gives a hint for every message of the kernel about an interface or an address, and
// subscribes again when a subscription ends.
func subscribeInterfaces(ctx context.Context, log *zap.Logger, hints chan<- struct{}) {
	for ctx.Err() == nil {
		if err := followInterfaces(ctx, hints); err != nil {
			log.Debug("netlink subscription ended", zap.Error(err))
		}
		hint(hints) // something may have been missed
		select {
		case <-ctx.Done():
		case <-time.After(resubscribe):
		}
	}
}

func followInterfaces(ctx context.Context, hints chan<- struct{}) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	addrs := make(chan netlink.AddrUpdate)
	err := netlink.AddrSubscribeWithOptions(addrs, ctx.Done(), netlink.AddrSubscribeOptions{ErrorCallback: cancel})
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait() // each loop ends when its channel is closed, soon after ctx
	wg.Go(func() {
		for range addrs {
			hint(hints)
		}
		cancel(nil)
	})
	links := make(chan netlink.LinkUpdate)
	err = netlink.LinkSubscribeWithOptions(links, ctx.Done(), netlink.LinkSubscribeOptions{ErrorCallback: cancel})
	if err != nil {
		cancel(err)
		return err
	}
	wg.Go(func() {
		for range links {
			hint(hints)
		}
		cancel(nil)
	})
	<-ctx.Done()
	return context.Cause(ctx)
}
