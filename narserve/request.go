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
)

// allowed refuses what a web page may have sent: without a check, any site could learn through a visitor's browser
// which software the machine has, or keep it busy fetching. A page under a name of its own that resolves to this
// machine (DNS rebinding) shows in Host; a page of another origin shows in Origin and Sec-Fetch-Site, neither of
// which Nix sends.
func (s *Server) allowed(r *http.Request) bool {
	if _, ok := r.Header["Origin"]; ok {
		return false
	}
	for _, site := range r.Header["Sec-Fetch-Site"] {
		if site != "none" { // somebody typed the address
			return false
		}
	}
	host := r.Host
	if h, port, err := net.SplitHostPort(host); err == nil {
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			return false
		}
		host = h
	} else if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		host = host[1 : len(host)-1]
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	return s.hosts[strings.ToLower(strings.TrimSuffix(host, "."))]
}

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
