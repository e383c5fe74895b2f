package lan

import (
	"fmt"
	"strings"
)

// NginxPort is the TCP port of StartNginx.
const NginxPort = 8080

const nginxConf = `daemon off;
user root;
worker_processes auto;
pid /run/nginx.pid;
error_log /dev/stderr warn;
events { worker_connections 512; }
http {
	log_format plain '$request_method $uri $status $body_bytes_sent';
	access_log %s plain;
	sendfile on;
	tcp_nopush on;
	keepalive_requests 100000;
	client_body_temp_path /tmp/nginx-body;
	proxy_temp_path /tmp/nginx-proxy;
	fastcgi_temp_path /tmp/nginx-fastcgi;
	uwsgi_temp_path /tmp/nginx-uwsgi;
	scgi_temp_path /tmp/nginx-scgi;
	server { listen %d; listen [::]:%d; root %s; }
}
`

// StartNginx serves a directory of the host, usually a binary cache, on all of the host's addresses. It returns the URL
// for other hosts.
func (h *Host) StartNginx(dir string) (*Process, string, error) {
	conf := fmt.Sprintf(nginxConf, "/srv/access.log", NginxPort, NginxPort, dir)
	if err := h.WriteFile("/srv/nginx.conf", conf); err != nil {
		return nil, "", err
	}
	p, err := h.start("nginx", h.command([]string{"nginx", "-c", "/srv/nginx.conf"}))
	if err != nil {
		return nil, "", err
	}
	url := fmt.Sprintf("http://%s:%d", h.Addr4, NginxPort)
	return p, url, h.waitHTTP(p, url+"/nix-cache-info")
}

// A Request is a line of nginx's log.
type Request struct{ Method, Path, Status string }

// NginxRequests returns the requests in nginx's log, without those for nix-cache-info, which every client sends.
func (h *Host) NginxRequests() ([]Request, error) {
	text, err := h.ReadFile("/srv/access.log")
	if err != nil {
		return nil, err
	}
	var reqs []Request
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 4 && f[1] != "/nix-cache-info" {
			reqs = append(reqs, Request{Method: f[0], Path: f[1], Status: f[2]})
		}
	}
	return reqs, nil
}
