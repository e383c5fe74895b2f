package main

import (
	"errors"
	"fmt"
	"net/http"

	"narbor/cmd/narbor/control"
	"narbor/narserve/dashboard"
	"narbor/store"
)

// offered returns the NAR that Nix would be told of; ok is false if there is none.
func offered(w control.Why) (narHash store.Hash, narSize int64, ok bool) {
	text := ""
	switch w.From {
	case "store", "cache":
		text, narSize = w.Local.NarHash, w.Local.NarSize
	case "neighbours":
		for _, a := range w.Neighbours {
			if a.Believed() {
				text, narSize = a.NarHash, a.NarSize
				break
			}
		}
	case "upstream":
		text, narSize = w.Upstream.NarHash, w.Upstream.NarSize
	}
	narHash, err := store.ParseHash(text)
	return narHash, narSize, err == nil
}

// object changes the answer to 404 if the server would not tell Nix of the NAR.
func object(w *control.Why, obstacle func(store.HashPart, store.Hash, int64) error) {
	narHash, narSize, ok := offered(*w)
	if !ok {
		return
	}
	err := obstacle(store.HashPart(w.HashPart), narHash, narSize)
	if err == nil {
		return
	}
	w.Status, w.From = http.StatusNotFound, ""
	const next = "; Nix asks its next substituter"
	switch {
	case errors.Is(err, store.ErrTooLarge):
		w.Reason = fmt.Sprintf("it can be had, but its archive of %s is larger than the spool, see --spool-size of `narbor run`%s",
			dashboard.Amount(narSize), next)
	case errors.Is(err, store.ErrNoSpace):
		w.Reason = fmt.Sprintf("it can be had, but the disk of the spool has no room for its archive of %s beside what --min-free "+
			"leaves free%s", dashboard.Amount(narSize), next)
	case errors.Is(err, store.ErrMalformed):
		w.Reason = "it can be had, but its archive is malformed, though it was signed" + next
	default:
		w.Reason = "it can be had, but " + err.Error() + next
	}
}
