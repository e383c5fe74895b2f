package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime/pprof"
	"strconv"
	"sync"
	"time"

	"go.uber.org/zap"

	"narbor/cmd/narbor/control"
	"narbor/cmd/narbor/dashboard"
	"narbor/cmd/narbor/exit"
	"narbor/p2p/discovery"
	"narbor/p2p/meet"
	"narbor/p2p/ping"
)

const (
	maxPings = 20
	// maxPingBytes bounds what a ping fetches: two seconds of a gigabit.
	maxPingBytes = 256 << 20
	// maxDebugReport bounds an answer of `narbor debug`, which is a third longer in JSON, below [control.MaxAnswer].
	maxDebugReport = control.MaxAnswer / 2
)

// controlHandler answers on the control socket. Every user may query the state; only root and the user that narbor runs
// as may change it.
func (s *parts) controlHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", control.Answer(s.getStatus))
	mux.HandleFunc("GET /stats", control.Answer(func(*http.Request) (any, error) { return s.accounts.Account(), nil }))
	mux.HandleFunc("GET /keys", control.Answer(func(*http.Request) (any, error) { return s.keys.list(), nil }))
	mux.HandleFunc("GET /config", control.Change(func(*http.Request) (any, error) { // for the owner only: it names files and peers
		return control.ConfigShow{Schema: control.Schema, Settings: s.start.settings}, nil
	}))
	mux.HandleFunc("GET /settings", control.Change(s.keys.read))
	mux.HandleFunc("GET /why", control.Answer(s.getWhy))
	mux.HandleFunc("GET /peers", control.Answer(func(*http.Request) (any, error) { return s.peerList(), nil }))
	mux.HandleFunc("POST /peers/{what}", control.Change(s.postPeers))
	mux.HandleFunc("POST /ping", control.Lasting(pingTimeout, control.Change(oneAtATime("another ping is under way", s.postPing))))
	mux.HandleFunc("POST /dialback", control.Lasting(control.DialBackTimeout,
		control.Answer(oneAtATime("neighbours are being asked already", s.postDialBack)))) // which changes nothing
	mux.HandleFunc("PUT /share", control.Change(s.putShare))
	handleDebug(mux, s.log)
	return mux
}

// oneAtATime returns a handler that calls do for one request at a time. Other requests get an error with the text busy.
func oneAtATime(busy string, do func(*http.Request) (any, error)) func(*http.Request) (any, error) {
	var mu sync.Mutex
	return func(r *http.Request) (any, error) {
		if !mu.TryLock() {
			return nil, exit.With(errors.New(busy+"; try again in a moment"), exit.Temporary)
		}
		defer mu.Unlock()
		return do(r)
	}
}

func (s *parts) peerList() control.PeerList {
	st := s.node.Status()
	return control.PeerList{Schema: control.Schema, Neighbours: st.Neighbours, Named: append([]discovery.NamedPeer{}, s.node.Peers()...),
		Banned:  st.Banned,
		Blocked: st.Blocked, OtherGroup: st.OtherGroup}
}

// postPeers adds, removes, blocks or unblocks a peer. The answer has the peer's name.
func (s *parts) postPeers(r *http.Request) (any, error) {
	name := r.URL.Query().Get("peer")
	if name == "" {
		return nil, exit.With(errors.New("no peer is named"), exit.Usage)
	}
	var err error
	switch r.PathValue("what") {
	case "add":
		if err = s.node.AddPeer(name); err != nil {
			err = exit.With(err, exit.Usage)
		}
	case "rm":
		if err = s.node.RemovePeer(name); err != nil {
			err = exit.With(fmt.Errorf("%w; `narbor peers` lists them", err), exit.NotFound)
		}
	case "block":
		name, err = s.node.Block(name)
	case "unblock":
		name, err = s.node.Unblock(name)
	default:
		err = exit.With(fmt.Errorf("%.20q is none of add, rm, block, unblock", r.PathValue("what")), exit.Usage)
	}
	return struct {
		Peer string `json:"peer"`
	}{name}, noPeer(err)
}

// postPing measures the path to a neighbour. It costs both sides time and traffic, so only callers that may change
// things may use it.
func (s *parts) postPing(r *http.Request) (any, error) {
	q := r.URL.Query()
	count, err := strconv.Atoi(q.Get("count"))
	bytes, err2 := strconv.ParseInt(q.Get("bytes"), 10, 64)
	if errors.Join(err, err2) != nil || count < 1 || count > maxPings || bytes < 0 || bytes > maxPingBytes {
		return nil, exit.With(fmt.Errorf("ping %q times with %q bytes: give 1 to %d, and at most %s", q.Get("count"), q.Get("bytes"),
			maxPings, dashboard.Amount(maxPingBytes)), exit.Usage)
	}
	ctx, cancel := context.WithTimeout(r.Context(), pingTimeout)
	defer cancel()
	cfg := ping.Config{Count: count, Bytes: bytes}
	if bytes > 0 {
		cfg.Paths = s.shares.somePaths(ctx)
	}
	p, err := s.node.Ping(ctx, q.Get("peer"), cfg)
	if err != nil {
		return nil, noPeer(err)
	}
	return control.PingReport{Schema: control.Schema, Ping: p}, nil
}

func noPeer(err error) error {
	if errors.Is(err, discovery.ErrNoPeer) {
		return exit.With(fmt.Errorf("%w; `narbor peers` lists them", err), exit.NotFound)
	}
	return err
}

// postDialBack asks neighbours to connect to this machine. Any user may ask: neighbours ration it themselves.
func (s *parts) postDialBack(r *http.Request) (any, error) {
	ctx, cancel := context.WithTimeout(r.Context(), control.DialBackTimeout)
	defer cancel()
	return control.DialBackReport{Schema: control.Schema, DialBacks: append([]meet.DialBack{}, s.node.DialBack(ctx)...)}, nil
}

func (s *parts) putShare(r *http.Request) (any, error) {
	what, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, exit.With(err, exit.Usage)
	}
	on, err := parseShare(string(what))
	if err != nil {
		return nil, exit.With(err, exit.Usage)
	}
	var d time.Duration
	if text := r.URL.Query().Get("for"); text != "" {
		if d, err = time.ParseDuration(text); err != nil || d <= 0 || d > maxPause || on {
			return nil, exit.With(fmt.Errorf("%q is no time that sharing can be paused for", text), exit.Usage)
		}
	}
	return nil, s.pause.set(on, d, s.share)
}

func (s *parts) share(on bool) {
	s.node.Share(on)
	s.log.Info("what neighbours may have was changed", zap.Bool("sharing", on))
}

// handleDebug adds the handlers for `narbor debug`. Only root and the user that narbor runs as may use
// them, although stacks and profiles have no content of transfers. A verbose log may fill a disk.
func handleDebug(mux *http.ServeMux, log logs) {
	mux.HandleFunc("GET /debug/goroutines", control.Change(writing(func(_ *http.Request, w io.Writer) error {
		var all bytes.Buffer
		if err := pprof.Lookup("goroutine").WriteTo(&all, 2); err != nil { // as after a panic
			return err
		}
		_, err := w.Write(all.Bytes()[:min(all.Len(), maxDebugReport)]) // the first thousands tell enough
		return err
	})))
	mux.HandleFunc("GET /debug/heap", control.Change(writing(func(_ *http.Request, w io.Writer) error {
		return pprof.Lookup("heap").WriteTo(w, 0) // the format of go tool pprof
	})))
	mux.HandleFunc("GET /debug/profile", control.Lasting(maxProfileTime, control.Change(writing(writeProfile))))
	mux.HandleFunc("PUT /debug/log", control.Change(func(r *http.Request) (any, error) {
		text, err := io.ReadAll(r.Body)
		if err == nil {
			err = log.set(string(text))
		}
		if err == nil {
			log.Info("the level of the log was changed", zap.ByteString("level", text))
		}
		return nil, err
	}))
}

// writing returns what do writes.
func writing(do func(*http.Request, io.Writer) error) func(*http.Request) (any, error) {
	return func(r *http.Request) (any, error) {
		var b bytes.Buffer
		if err := do(r, &b); err != nil {
			return nil, err
		}
		if b.Len() > maxDebugReport {
			return nil, fmt.Errorf("the answer has %s, more than %s", dashboard.Amount(int64(b.Len())), dashboard.Amount(maxDebugReport))
		}
		return b.Bytes(), nil
	}
}

func writeProfile(r *http.Request, w io.Writer) error {
	d, err := time.ParseDuration(r.URL.Query().Get("for"))
	if err != nil || d <= 0 || d > maxProfileTime {
		return exit.With(fmt.Errorf("a profile takes up to %v, not %q; give for example --for 10s", maxProfileTime,
			r.URL.Query().Get("for")), exit.Usage)
	}
	if err := pprof.StartCPUProfile(w); err != nil {
		return exit.With(errors.New("another profile is being made; try again when it is done"), exit.Temporary)
	}
	defer pprof.StopCPUProfile()
	select {
	case <-time.After(d):
		return nil
	case <-r.Context().Done():
		return r.Context().Err()
	}
}
