package discovery

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/zap"

	"narbor/p2p/netmon"
)

// srvService is the name of the service in SRV records (RFC 2782), with the labels of DNS-Based Service Discovery
// (RFC 6763, section 7).
const srvService = "_narbor._tcp"

// A srvSearch names peers after SRV records in the search domains of this machine's resolver, which the administrator
// of the network chooses. It asks once after each change of network.
type srvSearch struct {
	added  *added
	log    *zap.Logger
	config string        // resolv.conf(5)
	delay  time.Duration // after a change, in which the configuration of the resolver follows
	lookup func(ctx context.Context, name string) ([]*net.SRV, error)
	moved  chan struct{} // the network has changed
}

func newSRVSearch(a *added, log *zap.Logger) *srvSearch {
	return &srvSearch{added: a, log: log, config: "/etc/resolv.conf", delay: srvDelay, moved: make(chan struct{}, 1),
		lookup: func(ctx context.Context, name string) ([]*net.SRV, error) {
			_, records, err := net.DefaultResolver.LookupSRV(ctx, "", "", name)
			return records, err
		}}
}

// run asks until ctx ends. While servers fail, the peers of the last answers stay named and the servers are asked
// again.
func (s *srvSearch) run(ctx context.Context) error {
	wait := time.After(0)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.moved:
			wait = time.After(s.delay)
		case <-wait:
			wait = nil
			texts, err := s.ask(ctx)
			if ctx.Err() == nil {
				s.added.setFound(texts, err == nil)
			}
			if err != nil {
				s.log.Debug("search domains not asked for peers", zap.Error(err))
				wait = time.After(lookAgain)
			}
		}
	}
}

// ask returns the peers that the search domains have now, and an error if one of these could not be asked.
func (s *srvSearch) ask(ctx context.Context) (texts []string, err error) {
	var errs []error
	config, err := dns.ClientConfigFromFile(s.config)
	if err != nil {
		return nil, err
	}
	for _, domain := range config.Search[:min(len(config.Search), maxSearched)] {
		domain = dns.CanonicalName(domain)
		if domain == "." || dns.IsSubDomain("local.", domain) { // the latter belongs to multicast DNS
			continue
		}
		records, err := s.lookIn(ctx, domain)
		if err != nil {
			errs = append(errs, err)
		}
		for _, r := range records {
			text := fmt.Sprintf("%s:%d", strings.TrimSuffix(r.Target, "."), r.Port)
			if _, err := parseFound(text); err != nil {
				s.log.Debug("left out of SRV records", zap.String("domain", domain), zap.Error(err))
			} else if len(texts) < maxFound && !slices.Contains(texts, text) {
				texts = append(texts, text)
			}
		}
	}
	return texts, errors.Join(errs...)
}

// lookIn returns the records of one domain, by priority. A domain without any is no error.
func (s *srvSearch) lookIn(ctx context.Context, domain string) ([]*net.SRV, error) {
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	records, err := s.lookup(ctx, srvService+"."+domain)
	if failed, ok := errors.AsType[*net.DNSError](err); ok && failed.IsNotFound {
		return nil, nil
	}
	if len(records) > 0 { // an error then says that some were malformed
		return records, nil
	}
	return nil, err
}

// hint makes a search ask again, if there is one.
func (s *srvSearch) hint() {
	if s != nil {
		netmon.Hint(s.moved)
	}
}
