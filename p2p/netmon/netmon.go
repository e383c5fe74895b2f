// Package netmon reports the network interfaces of this machine and their changes: which of them lead to a LAN on which
// neighbours may be, which addresses they have, where the default routes lead, which of them are metered,
// whether the machine runs on battery, and when it has slept or its clock was set.
//
// [Policy] decides which interfaces are used. On Linux the kernel's netlink messages and timers report changes at once;
// other systems are polled once a minute.
package netmon

// Hint sends to a channel of capacity 1 without blocking. Hints that are not yet received count as one.
func Hint(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
