package dashboard

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"narbor/narserve"
)

const (
	// maxStreams bounds how many pages are kept up to date at once: a few tabs of a few people.
	maxStreams = 16
	// streamEvery is how often a page is brought up to date, which bounds the cost: a page is rendered in a
	// millisecond.
	streamEvery = time.Second
	// streamTimeout is how long a browser may take to read an event, and streamQuiet how long there may be no event: a
	// browser that has gone without closing its connection is noticed by then.
	streamTimeout, streamQuiet = 10 * time.Second, 15 * time.Second
)

// A stream keeps one open page up to date.
type stream struct{ page *Page }

// stream answers with a stream, if there are not too many.
func (p *Page) stream(a narserve.Reply) narserve.Reply {
	select {
	case p.streams <- struct{}{}:
		a.ContentType, a.Stream = "text/event-stream", (&stream{p}).run
		return a
	default:
		a.Status, a.Text = http.StatusTooManyRequests, "too many pages are open: this one tries again\n"
		return a
	}
}

// run sends each part of the page when it has changed, until the browser or narbor is gone.
func (s *stream) run(w http.ResponseWriter, r *http.Request) {
	defer func() { <-s.page.streams }()
	rc := http.NewResponseController(w)
	w.WriteHeader(http.StatusOK)
	tick := time.NewTicker(streamEvery)
	defer tick.Stop()
	sent, last := map[string][sha256.Size]byte{}, time.Time{}
	for {
		text, err := s.page.changes(sent)
		if err != nil {
			return
		}
		if text == "" && time.Since(last) > streamQuiet {
			text = ":\n\n"
		}
		if text != "" {
			last = time.Now()
			_ = rc.SetWriteDeadline(last.Add(streamTimeout)) // the error is that of a recorder, which has none
			if _, err := w.Write([]byte(text)); err != nil || rc.Flush() != nil {
				return
			}
		}
		select {
		case <-tick.C:
		case <-s.page.stopped:
			return
		case <-r.Context().Done():
			return
		}
	}
}

// changes returns events for the sections that are not as they were sent, and records them.
func (p *Page) changes(sent map[string][sha256.Size]byte) (events string, err error) {
	v := p.view()
	for _, id := range sections() {
		text, err := p.render(id, v)
		if err != nil {
			return "", err
		}
		sum := sha256.Sum256([]byte(text))
		if sent[id] == sum {
			continue
		}
		sent[id] = sum
		data, err := json.Marshal(map[string]string{"id": id, "html": text})
		if err != nil {
			return "", err
		}
		events += fmt.Sprintf("data: %s\n\n", data)
	}
	return events, nil
}
