package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"narbor/store"
)

const (
	// dialTimeout bounds each of connecting and the TLS handshake.
	dialTimeout = 4 * time.Second
	// headerTimeout bounds the wait for an archive to begin: a cache may have to get it from slow storage.
	headerTimeout = 15 * time.Second
	// connIdle is how long a connection is kept: less than what servers grant.
	connIdle = 50 * time.Second
	// maxConns bounds the connections to one upstream over HTTP/1.1: Nix makes 25 (http-connections).
	maxConns = 40
	// maxRedirects is how often an upstream may send us elsewhere.
	maxRedirects = 5
)

// A site is where a cache is, and how it is asked.
type site struct {
	base   *url.URL // ends in a slash
	agent  string
	client *http.Client
}

// String returns the URL, without a user and a password.
func (u *site) String() string { return unnamed(u.base) }

// parseURL accepts the URL of a cache as Nix has it among its substituters.
func parseURL(s string) (*url.URL, error) {
	base, err := url.Parse(s)
	if err != nil {
		return nil, errors.New("an upstream that is no URL: give one such as https://cache.nixos.org") // s may hold a password
	}
	if base.Scheme != "http" && base.Scheme != "https" || base.Host == "" {
		return nil, fmt.Errorf("upstream %s: only http:// and https:// caches can be asked; a directory is shared by --cache-dir",
			unnamed(base))
	}
	base.RawQuery, base.Fragment = "", ""
	base.Path = strings.TrimSuffix(base.Path, "/") + "/"
	base.RawPath = ""
	return base, nil
}

func newClient() *http.Client {
	t := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: dialTimeout}).DialContext,
		TLSHandshakeTimeout:   dialTimeout,
		ResponseHeaderTimeout: headerTimeout,
		IdleConnTimeout:       connIdle,
		MaxIdleConns:          maxConns,
		MaxIdleConnsPerHost:   maxConns,
		MaxConnsPerHost:       maxConns,
		ForceAttemptHTTP2:     true,
		DisableCompression:    true, // archives are compressed already, and a Range is of what the server has
		HTTP2:                 &http.HTTP2Config{SendPingTimeout: 10 * time.Second, PingTimeout: 5 * time.Second},
	}
	return &http.Client{Transport: t, CheckRedirect: func(req *http.Request, via []*http.Request) error {
		if len(via) > maxRedirects {
			return fmt.Errorf("more than %d redirections", maxRedirects)
		}
		if via[0].URL.Scheme == "https" && req.URL.Scheme != "https" {
			return errors.New("a redirection from https to " + req.URL.Scheme)
		}
		return nil
	}}
}

// unnamed is a URL that has xxxxx where it has a user and a password: some caches take a token as the one, some as the
// other.
func unnamed(u *url.URL) string {
	c := *u
	if c.User != nil {
		c.User = url.User("xxxxx")
	}
	return c.String()
}

// A statusError is an answer of a server that is no file.
type statusError int

func (e statusError) Error() string { return strconv.Itoa(int(e)) + " " + http.StatusText(int(e)) }

// isAnswer says whether an error, or none, comes from a server that is well.
func isAnswer(err error) bool {
	status, ok := errors.AsType[statusError](err)
	busy := status == http.StatusRequestTimeout || status == http.StatusTooManyRequests || status >= 500
	return err == nil || errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrCorrupt) || ok && !busy
}

func (u *site) get(ctx context.Context, name string, limit int64) (string, error) {
	resp, err := u.do(ctx, name, nil)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%w: more than %d bytes", store.ErrCorrupt, limit)
	}
	if err != nil {
		return "", fmt.Errorf("upstream %s: %s: %w", u, name, err)
	}
	return string(b), nil
}

// do asks for a file, and fails unless the cache sends it, or the part of it that header asks for. The caller closes
// the body.
func (u *site) do(ctx context.Context, name string, header http.Header) (*http.Response, error) {
	ref, err := url.Parse(name)
	if err != nil {
		return nil, fmt.Errorf("upstream %s: %w", u, err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.base.ResolveReference(ref).String(), nil)
	if err != nil {
		return nil, fmt.Errorf("upstream %s: %w", u, err)
	}
	for key, values := range header {
		req.Header[key] = values
	}
	req.Header.Set("User-Agent", u.agent)
	resp, err := u.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("upstream %s: %w", u, plain(err))
	}
	switch resp.StatusCode {
	case http.StatusOK, http.StatusPartialContent:
		if err := decodeContent(resp); err != nil {
			resp.Body.Close()
			return nil, fmt.Errorf("upstream %s: %s: %w", u, name, err)
		}
		return resp, nil
	}
	_, _ = io.CopyN(io.Discard, resp.Body, 4<<10) // so that the connection can be used again
	resp.Body.Close()
	err = fmt.Errorf("upstream %s: %s: %w", u, name, statusError(resp.StatusCode))
	switch resp.StatusCode {
	case http.StatusNotFound, http.StatusForbidden, http.StatusGone: // as Nix takes them
		err = fmt.Errorf("%w: %w", store.ErrNotFound, err)
	}
	return nil, err
}

// plain removes the URL, which may hold a password, that [http.Client] adds to an error.
func plain(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}
