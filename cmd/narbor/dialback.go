package main

import (
	"context"
	"errors"
	"net/http"
	"time"

	"narbor/p2p"
)

// dialBackTimeout is how long neighbours may take to connect to this machine on request, and to answer.
const dialBackTimeout = 7 * time.Second

// DialBackReport is what the control socket answers about dial-backs.
type DialBackReport struct {
	Schema    int            `json:"schema"`
	DialBacks []p2p.DialBack `json:"dialBacks"`
}

// postDialBack asks neighbours to connect to this machine. Any user may ask: neighbours ration it themselves.
func (s *service) postDialBack(r *http.Request) (any, error) {
	if !s.dialling.TryLock() {
		return nil, codedError{errors.New("neighbours are being asked already; try again in a moment"), exitTemporary}
	}
	defer s.dialling.Unlock()
	ctx, cancel := context.WithTimeout(r.Context(), dialBackTimeout)
	defer cancel()
	return DialBackReport{jsonSchema, append([]p2p.DialBack{}, s.node.DialBack(ctx)...)}, nil
}

// dialBacks asks the narbor that runs here for dial-backs.
func (p *patient) dialBacks(ctx context.Context) (DialBackReport, error) {
	ctl := p.ctl
	ctl.timeout = dialBackTimeout + controlTimeout
	var r DialBackReport
	err := ctl.call(ctx, http.MethodPost, "/dialback", "", &r)
	return r, err
}
