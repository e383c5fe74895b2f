package main

import "net/http"

// controlHandler answers on the control socket. Every user may query the state; only root and the user that narbor runs
// as may change it.
func (s *service) controlHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", answer(s.getStatus))
	mux.HandleFunc("GET /stats", answer(func(*http.Request) (any, error) { return s.accounts.Account(), nil }))
	mux.HandleFunc("GET /keys", answer(func(*http.Request) (any, error) { return s.keyList(), nil }))
	mux.HandleFunc("GET /config", change(s.configShow)) // for the owner only: it has names of files and of peers
	mux.HandleFunc("GET /settings", change(s.getSettings))
	mux.HandleFunc("GET /why", answer(s.getWhy))
	mux.HandleFunc("GET /peers", answer(func(*http.Request) (any, error) { return s.peerList(), nil }))
	mux.HandleFunc("POST /peers/{what}", change(s.postPeers))
	mux.HandleFunc("POST /ping", lasting(pingTimeout, change(s.postPing)))
	mux.HandleFunc("POST /dialback", lasting(dialBackTimeout, answer(s.postDialBack))) // which changes nothing
	mux.HandleFunc("PUT /share", change(s.putShare))
	s.handleDebug(mux)
	return mux
}
