package main

import (
	"context"
	"errors"
	"net/http"

	"narbor/cmd/narbor/control"
	"narbor/p2p"
)

// postDialBack asks neighbours to connect to this machine. Any user may ask: neighbours ration it themselves.
func (s *service) postDialBack(r *http.Request) (any, error) {
	if !s.dialling.TryLock() {
		return nil, control.WithCode(errors.New("neighbours are being asked already; try again in a moment"), control.ExitTemporary)
	}
	defer s.dialling.Unlock()
	ctx, cancel := context.WithTimeout(r.Context(), control.DialBackTimeout)
	defer cancel()
	return control.DialBackReport{Schema: control.Schema, DialBacks: append([]p2p.DialBack{}, s.node.DialBack(ctx)...)}, nil
}
