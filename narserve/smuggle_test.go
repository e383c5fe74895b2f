package narserve_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"narbor/narserve"
)

// answers sends bytes, and returns what each answer is about until the server closes the connection: the name of a
// store path, or a status. After as many answers as wanted there is no more to come from the client.
func answers(t testing.TB, addr, sent string, want int) (got []string) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, sent); err != nil {
		t.Fatal(err)
	}
	for br := bufio.NewReader(c); ; {
		if len(got) == want { // earlier would be hanging up
			_ = c.(*net.TCPConn).CloseWrite() // the server may have closed it already
		}
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			if err != io.ErrUnexpectedEOF && err != io.EOF && !strings.Contains(err.Error(), "reset") {
				t.Errorf("%.200q: then %v", sent, err)
			}
			return got
		}
		text := string(body(t, resp))
		if resp.StatusCode == http.StatusContinue {
			continue
		}
		line, _, _ := strings.Cut(text, "\n")
		if _, name, ok := strings.Cut(line, "-"); ok && resp.StatusCode == 200 {
			got = append(got, name)
		} else {
			got = append(got, resp.Status[:3])
		}
	}
}

// TestSmuggling sends requests with an ambiguous end. SMUGGLED is a request in what may be a body, and after each comes
// an honest one. None may be answered twice, none as another, and the smuggled one not at all.
func TestSmuggling(t *testing.T) {
	w := newWorld(t)
	paths := map[string]string{}
	for _, name := range []string{"first", "smuggled", "honest"} {
		info, _ := w.add(t, name, 10)
		paths[name] = narinfoPath(info)
	}
	addr := startServer(t, narserve.New(narserve.Config{Sources: []narserve.Source{w.local()}, Keys: w.keys}))
	get := func(name string) string { return "GET " + paths[name] + " HTTP/1.1\r\nHost: " + addr + "\r\n" }
	smuggled := get("smuggled") + "\r\n"
	length := fmt.Sprint(len(smuggled))
	chunked := fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(smuggled), smuggled)
	const te, cl = "Transfer-Encoding: chunked\r\n", "Content-Length: "
	one, both := []string{"first"}, []string{"first", "honest"}
	bad, unknown := []string{"400"}, []string{"501"} // by net/http; Nix never sends a body when it substitutes
	for _, tt := range []struct {
		rest string // of the first request
		want []string
	}{
		{"\r\n", both}, {"X: y\r\n\r\n", both}, {cl + "0\r\n\r\n", both}, {"Connection: close\r\n\r\n", one},
		{"Expect: 100-continue\r\n\r\n", both},
		// A length.
		{cl + length + "\r\n\r\n" + smuggled, one}, {cl + length + "\r\n" + cl + length + "\r\n\r\n" + smuggled, one},
		{cl + "5\r\n\r\n" + smuggled, one},
		{cl + "99999\r\n\r\n" + smuggled, one}, {cl + "9223372036854775807\r\n\r\n" + smuggled, one},
		{"Expect: 100-continue\r\n" + cl + length + "\r\n\r\n" + smuggled, one},
		{cl + "0\r\n" + cl + length + "\r\n\r\n" + smuggled, bad}, {cl + length + "\r\n" + cl + "0\r\n\r\n" + smuggled, bad},
		{cl + length + ", " + length + "\r\n\r\n" + smuggled, bad},
		{cl + "0, " + length + "\r\n\r\n" + smuggled, bad}, {cl + "+" + length + "\r\n\r\n" + smuggled, bad},
		{cl + "-1\r\n\r\n" + smuggled, bad}, {cl + "0x10\r\n\r\n" + smuggled, bad},
		{cl + "1e1\r\n\r\n" + smuggled, bad}, {cl + "1_0\r\n\r\n" + smuggled, bad}, {cl + "\r\n\r\n" + smuggled, bad},
		{cl + "18446744073709551616\r\n\r\n" + smuggled, bad},
		{"Content-Length : " + length + "\r\n\r\n" + smuggled, bad}, {"Content-Length\t: " + length + "\r\n\r\n" + smuggled, bad},
		{" " + cl + length + "\r\n\r\n" + smuggled, bad},
		{"Content-Length\x00: " + length + "\r\n\r\n" + smuggled, bad}, {"Content-Length\r\n: " + length + "\r\n\r\n" + smuggled, bad},
		{cl + "\n" + length + "\r\n\r\n" + smuggled, bad},
		{cl + "\r\n " + length + "\r\n\r\n" + smuggled, one}, {"X: y\r\n " + cl + "1\r\n\r\n", both},
		{"X: y\n" + cl + length + "\n\n" + smuggled, one},
		{"X: y\r" + cl + length + "\r\n\r\n", bad}, {"X: y\x00\r\n" + cl + length + "\r\n\r\n" + smuggled, bad},
		{"Content_Length: 5\r\n\r\n", both},
		// Chunks.
		{te + "\r\n" + chunked, one}, {te + "\r\n0\r\n\r\n" + smuggled, one}, {te + cl + length + "\r\n\r\n" + chunked, one},
		{cl + length + "\r\n" + te + "\r\n" + chunked, one},
		{cl + "4\r\n" + te + "\r\n" + chunked, one}, {cl + length + "\r\n" + te + "\r\n0\r\n\r\n" + smuggled, one},
		{cl + "0\r\n" + te + "\r\n0\r\n\r\n" + smuggled, one},
		{"Transfer-Encoding:\r\n chunked\r\n\r\n" + chunked, one}, {"transfer-encoding: CHUNKED\r\n\r\n" + chunked, one},
		{"Transfer-Encoding:\tchunked\r\n\r\n" + chunked, one},
		{"Transfer-Encoding: chunked \r\n\r\n" + chunked, one}, {te + te + "\r\n" + chunked, unknown},
		{te + "Transfer-Encoding: identity\r\n\r\n" + smuggled, unknown},
		{"Transfer-Encoding: identity\r\n" + cl + length + "\r\n\r\n" + smuggled, unknown},
		{"Transfer-Encoding: chunked, identity\r\n\r\n" + chunked, unknown},
		{"Transfer-Encoding: gzip, chunked\r\n\r\n" + chunked, unknown}, {"Transfer-Encoding: xchunked\r\n\r\n" + chunked, unknown},
		{"Transfer-Encoding: \"chunked\"\r\n\r\n" + chunked, unknown},
		{"Transfer-Encoding:\r\n\r\n" + smuggled, unknown}, {"Transfer-Encoding: chunked\x0b\r\n\r\n" + chunked, bad},
		{"Transfer-Encoding : chunked\r\n\r\n" + chunked, bad},
		{"Transfer_Encoding: chunked\r\n\r\n", both}, {"X: y\r\n " + te + "\r\n", both}, {te + "\r\n0\n\n" + smuggled, one},
		{te + "\r\n0;x=\n\r\n\r\n" + smuggled, one},
		{te + "\r\n-1\r\n\r\n" + smuggled, one}, {te + "\r\nFFFFFFFFFFFFFFFFF\r\n\r\n" + smuggled, one},
		{te + "\r\n5 \r\nhello\r\n0\r\n\r\n" + smuggled, one},
		{te + "\r\n0\r\nContent-Length: 5\r\n\r\n" + smuggled, one}, {te + "Trailer: Host\r\n\r\n0\r\nHost: evil\r\n\r\n" + smuggled, one},
	} {
		if got := answers(t, addr, get("first")+tt.rest+get("honest")+"\r\n", len(tt.want)); !slices.Equal(got, tt.want) {
			t.Errorf("%q: answers about %q, want %q", tt.rest, got, tt.want)
		}
	}
	// A chunked body means nothing in HTTP/1.0, and so would be taken for the next request.
	old := strings.Replace(get("first"), "1.1", "1.0", 1) + "Connection: keep-alive\r\n"
	for _, rest := range []string{"\r\n" + smuggled, te + "\r\n0\r\n\r\n" + smuggled, te + "\r\n" + smuggled,
		te + cl + length + "\r\n\r\n" + smuggled} {
		if got := answers(t, addr, old+rest, 1); !slices.Equal(got, one) {
			t.Errorf("%q: answers about %q, want %q", old+rest, got, one)
		}
	}
}
