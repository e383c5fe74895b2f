package narserve

import (
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Routes, as far as metrics tell them apart.
const (
	routeInfo    = "cache-info"
	routeNarinfo = "narinfo"
	routeNAR     = "nar"
	routePage    = "page"
	routeOther   = "other"
)

// counts are the metrics of requests, and the counters of [Server.Stats].
type counts struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	answers  map[string]map[int]prometheus.Counter // of requests, by route and status
	took     map[string]prometheus.Observer        // of seconds, by route

	hits, misses, nars, narBytes atomic.Int64
}

func newCounts() *counts {
	c := &counts{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "narbor_http_requests_total",
			Help: "Requests on the port that Nix asks on."}, []string{"route", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "narbor_http_request_duration_seconds",
			Help:    "How long these took, of NARs until they were sent.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 5, 30, 120}}, []string{"route"}),
		answers: map[string]map[int]prometheus.Counter{}, took: map[string]prometheus.Observer{}}
	for _, route := range []string{routeInfo, routeNarinfo, routeNAR, routePage, routeOther} {
		c.took[route] = c.seconds.WithLabelValues(route)
		c.answers[route] = map[int]prometheus.Counter{}
		for _, status := range statuses() {
			c.answers[route][status] = c.requests.WithLabelValues(route, strconv.Itoa(status))
		}
	}
	return c
}

// statuses are all that the server answers with.
func statuses() []int {
	return []int{http.StatusOK, http.StatusPartialContent, http.StatusFound, http.StatusForbidden, http.StatusNotFound,
		http.StatusMethodNotAllowed,
		http.StatusTooManyRequests}
}

// answered records a request. It costs two atomic additions.
func (c *counts) answered(route string, status int, took time.Duration) {
	c.answers[route][status].Inc()
	c.took[route].Observe(took.Seconds())
}
