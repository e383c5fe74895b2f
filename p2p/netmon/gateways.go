package netmon

import (
	"net/netip"
)

// A Gateway is where a default route leads.
type Gateway struct {
	Index int        // of the link
	Addr  netip.Addr // with a zone if it is link-local, once its link is known
	MAC   string     // "" is not known yet
}
