package narserve

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	"narbor/store"
	"narbor/trust"
)

// An access decides which requests are answered. It does not change.
type access struct {
	hosts  map[string]bool
	public *trust.Keys
}

func newAccess(hosts []string, public *trust.Keys) access {
	a := access{hosts: map[string]bool{}, public: public}
	for _, h := range hosts {
		a.hosts[plainHost(h)] = true
	}
	return a
}

// allowed refuses requests that a web page may have sent: without a check, any site could learn through a visitor's
// browser which software the machine has, or keep it busy fetching. A page under a name of its own that resolves to
// this machine (DNS rebinding) shows in Host; a page of another origin shows in the rest, none of which Nix sends.
//
// DNS rebinding takes a name. An address in Host is the one that was connected to, so a guest that knows this machine
// as 10.0.2.2, or a neighbour of an address that is listened on, may ask for the URLs that Nix asks for. All other URLs
// are for this machine alone: by its loopback names, over its loopback interface. The port beside a loopback name does
// not matter: ssh forwards any port to it, and no page can put another host's name there.
func (a *access) allowed(r *http.Request) bool {
	if _, ok := r.Header["Origin"]; ok {
		return false
	}
	if from, ok := r.Header["Referer"]; ok && !follows(r, from) {
		return false
	}
	for _, site := range r.Header["Sec-Fetch-Site"] {
		if site != "none" && (site != "same-origin" || forNix(r)) { // the address was typed, or it is the page itself
			return false
		}
	}
	host, port, ok := splitHost(r.Host)
	if !ok {
		return false
	}
	local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	here := ok && port == local.Port
	if host == "localhost" || host == "127.0.0.1" || host == "::1" {
		return here && forNix(r) || ok && port > 0 && local.IP.IsLoopback()
	}
	return (a.hosts[host] || here && nearby(host, local)) && forNix(r) && !fromBrowser(r)
}

// isOwn reports whether a program of this machine asks, as far as can be told: by a loopback name, over the loopback
// interface. A guest on QEMU's user networking that lies about Host looks the same.
func isOwn(r *http.Request) bool {
	host, _, _ := splitHost(r.Host)
	local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	return ok && local.IP.IsLoopback() && (host == "localhost" || host == "127.0.0.1" || host == "::1")
}

// mayHave returns an error if a path is for this machine's own programs alone: a path that only a private key has
// signed, and that came from a member of the group or a cache with a password, is not for guests.
func (a *access) mayHave(r *http.Request, m trust.Mapping) error {
	if a.public == nil || isOwn(r) {
		return nil
	}
	if _, err := a.public.CheckShared(m.Info()); err != nil {
		return fmt.Errorf("%w: %w", store.ErrNotFound, err)
	}
	return nil
}

// forNix says whether a request is for one of the three kinds of URL that Nix asks for.
func forNix(r *http.Request) bool {
	path := r.URL.Path
	return path == "/nix-cache-info" || strings.HasSuffix(path, ".narinfo") || strings.HasPrefix(path, "/nar/")
}

// routeOf says to which of the routes that metrics know a path belongs.
func routeOf(path string) string {
	switch {
	case path == "/nix-cache-info":
		return routeInfo
	case strings.HasSuffix(path, ".narinfo"):
		return routeNarinfo
	case strings.HasPrefix(path, "/nar/"):
		return routeNAR
	case path == "/" || path == "/events" || path == "/metrics" || path == "/healthz" || strings.HasPrefix(path, "/api/"):
		return routePage
	}
	return routeOther
}

// latePrefix begins the second URL of a NAR.
const latePrefix = "late/"

// follows reports whether the Referer of a request is a URL of ours that redirected it to a late NAR. Go clients, such
// as another narbor, send that header when they follow a redirect.
func follows(r *http.Request, from []string) bool {
	name, late := strings.CutPrefix(r.URL.Path, "/nar/"+latePrefix)
	return late && len(from) == 1 && (from[0] == "http://"+r.Host+"/nar/"+name || from[0] == "http://"+r.Host+r.URL.Path)
}

// nearby says whether a host is an address that only machines nearby can have for this one, or that is listened on.
func nearby(host string, local *net.TCPAddr) bool {
	a, err := netip.ParseAddr(host)
	return err == nil && (a.IsPrivate() || a.IsLinkLocalUnicast() || a.IsLoopback() || host == plainAddr(local.AddrPort().Addr()))
}

// fromBrowser says whether a web browser asks. Over plain HTTP it sends Sec-Fetch-Site to loopback addresses alone, and
// a page can suppress Referer; but it cannot keep the browser from saying what it is.
func fromBrowser(r *http.Request) bool {
	_, speaks := r.Header["Accept-Language"]
	return speaks || strings.HasPrefix(r.UserAgent(), "Mozilla/")
}

// splitHost takes a Host header apart. The host is in the one way in which this package writes hosts.
func splitHost(s string) (host string, port int, ok bool) {
	host, port = s, 80
	if i := strings.LastIndexByte(s, ':'); i > strings.LastIndexByte(s, ']') {
		n, err := strconv.ParseUint(s[i+1:], 10, 16)
		if err != nil {
			return "", 0, false
		}
		host, port = s[:i], int(n)
	}
	inner, bracket := strings.CutPrefix(host, "[")
	if bracket {
		if host, ok = strings.CutSuffix(inner, "]"); !ok {
			return "", 0, false
		}
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		return plainAddr(addr), port, addr.Is6() == bracket
	}
	return plainHost(host), port, host != "" && !bracket
}

// plainHost is a host name or an IP address, without brackets, as this package writes it.
func plainHost(s string) string {
	if addr, err := netip.ParseAddr(s); err == nil {
		return plainAddr(addr)
	}
	return strings.ToLower(strings.TrimSuffix(s, "."))
}

func plainAddr(a netip.Addr) string { return a.Unmap().WithZone("").String() }

// narName is the last element of a NAR's URL. The store path is in it so that a mapping can be asked for again.
func narName(hp store.HashPart, h store.Hash) string { return string(hp) + "-" + h.Base32() + ".nar" }

// parseNarName is the inverse of [narName].
func parseNarName(s string) (store.HashPart, store.Hash, error) {
	base, ok := strings.CutSuffix(s, ".nar")
	first, second, dash := strings.Cut(base, "-")
	if !ok || !dash {
		return "", store.Hash{}, fmt.Errorf("%.120q is not <hash part>-<NarHash>.nar", s)
	}
	hp, err := store.ParseHashPart(first)
	if err != nil {
		return "", store.Hash{}, err
	}
	h, err := store.ParseHash("sha256:" + second)
	if err != nil || h.Base32() != second { // it accepts base 16 and base 64 too
		return "", store.Hash{}, fmt.Errorf("%.80q is not a SHA-256 hash in base 32", second)
	}
	return hp, h, nil
}

// parseRange returns the first byte and the length that a request's Range asks for of size bytes; size is above 0.
// It knows one range of bytes. A request for more, or for none that exists, is an error: the whole is sent then,
// as RFC 9110 14.2 allows, because 416 means nothing to Nix.
func parseRange(header http.Header, size int64) (start, length int64, err error) {
	errUnusable := errors.New("unusable range")
	values := header["Range"]
	if len(values) != 1 {
		return 0, 0, errUnusable
	}
	spec, ok := strings.CutPrefix(values[0], "bytes=")
	first, last, dash := strings.Cut(spec, "-")
	if !ok || !dash {
		return 0, 0, errUnusable
	}
	if first == "" { // the last n bytes
		n, err := strconv.ParseUint(last, 10, 63)
		if err != nil || n == 0 {
			return 0, 0, errUnusable
		}
		length = min(int64(n), size)
		return size - length, length, nil
	}
	from, err := strconv.ParseUint(first, 10, 63)
	if err != nil || int64(from) >= size {
		return 0, 0, errUnusable
	}
	if last == "" {
		return int64(from), size - int64(from), nil
	}
	to, err := strconv.ParseUint(last, 10, 63)
	if err != nil || to < from {
		return 0, 0, errUnusable
	}
	return int64(from), min(int64(to), size-1) - int64(from) + 1, nil
}
