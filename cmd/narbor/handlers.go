package main

import (
	"net/http"

	"narbor/cmd/narbor/control"
)

// controlHandler answers on the control socket. Every user may query the state; only root and the user that narbor runs
// as may change it.
func (s *service) controlHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", control.Answer(s.getStatus))
	mux.HandleFunc("GET /stats", control.Answer(func(*http.Request) (any, error) { return s.accounts.Account(), nil }))
	mux.HandleFunc("GET /keys", control.Answer(func(*http.Request) (any, error) { return s.keyList(), nil }))
	mux.HandleFunc("GET /config", control.Change(s.configShow)) // for the owner only: it has names of files and of peers
	mux.HandleFunc("GET /settings", control.Change(s.getSettings))
	mux.HandleFunc("GET /why", control.Answer(s.getWhy))
	mux.HandleFunc("GET /peers", control.Answer(func(*http.Request) (any, error) { return s.peerList(), nil }))
	mux.HandleFunc("POST /peers/{what}", control.Change(s.postPeers))
	mux.HandleFunc("POST /ping", control.Lasting(pingTimeout, control.Change(s.postPing)))
	mux.HandleFunc("POST /dialback", control.Lasting(control.DialBackTimeout, control.Answer(s.postDialBack))) // which changes nothing
	mux.HandleFunc("PUT /share", control.Change(s.putShare))
	s.handleDebug(mux)
	return mux
}
