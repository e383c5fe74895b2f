// Package dashboard shows people and programs how narbor is: the page at /, the events that keep it up to date, the
// JSON for programs, and the metrics for Prometheus.
//
// It shows the [Facts] that it is given and the accounts of package stats, and changes nothing. The page has one script
// and one style, known by their hashes, and no asset from elsewhere; whatever text comes from a neighbour is escaped.
// The answer to a request is a [narserve.Reply] that is decided on as a whole; the server of package narserve has checked
// the request before, and writes the reply.
//
// The words for amounts, times and IDs are shared with the commands.
//
// A [Page] starts nothing. Its event streams run in the goroutines of their requests, and [Page.Stop] ends them.
package dashboard
