package integration_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"narbor/integration/lan"
)

// browserTime bounds each thing that the browser is asked to do: it is a large program, on a busy machine.
const browserTime = 60 * time.Second

// A browser is a headless Chromium with one page, driven by its DevTools protocol.
type browser struct {
	t    *testing.T
	conn *websocket.Conn

	mu       sync.Mutex // guards the rest
	last     int
	waiting  map[int]chan json.RawMessage
	requests []string // URLs, in the order that they were asked for
	said     []string // what pages logged, and what they complained of
	loads    int
	loaded   chan struct{} // has room for one
}

// newBrowser starts Chromium, if there is one.
func newBrowser(t *testing.T) *browser {
	t.Helper()
	name, err := exec.LookPath("chromium")
	if err != nil {
		unable(t, err.Error())
	}
	dir := t.TempDir()
	cmd := exec.Command(name, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
		"--disable-background-networking",
		"--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--disable-default-apps", "--disable-extensions",
		"--hide-scrollbars",
		"--remote-debugging-port=0", "--user-data-dir="+dir, "about:blank")
	cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_CONFIG_HOME="+dir, "XDG_CACHE_HOME="+dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	b := &browser{t: t, waiting: map[int]chan json.RawMessage{}, loaded: make(chan struct{}, 1)}
	t.Cleanup(func() {
		if b.conn != nil {
			b.conn.WriteJSON(map[string]any{"id": 1 << 30, "method": "Browser.close"})
		}
		stop := time.AfterFunc(10*time.Second, func() { cmd.Process.Kill() })
		cmd.Wait()
		stop.Stop()
		if b.conn != nil {
			b.conn.Close()
		}
	})
	b.connect(filepath.Join(dir, "DevToolsActivePort"))
	return b
}

// connect finds the page's socket by the port that Chromium has written down.
func (b *browser) connect(portFile string) {
	b.t.Helper()
	var port string
	for limit := time.Now().Add(lan.AtMost(browserTime)); port == ""; time.Sleep(50 * time.Millisecond) {
		if text, err := os.ReadFile(portFile); err == nil && strings.Contains(string(text), "\n") {
			port, _, _ = strings.Cut(string(text), "\n")
		}
		if time.Now().After(limit) {
			b.t.Fatal("chromium does not start")
		}
	}
	var pages []struct {
		Type string `json:"type"`
		URL  string `json:"webSocketDebuggerUrl"`
	}
	out, err := exec.Command("curl", "-sS", "--max-time", "30", "http://127.0.0.1:"+port+"/json/list").Output()
	if err == nil {
		err = json.Unmarshal(out, &pages)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	for _, p := range pages {
		if p.Type == "page" {
			ctx, cancel := context.WithTimeout(b.t.Context(), lan.AtMost(browserTime))
			defer cancel()
			if b.conn, _, err = websocket.DefaultDialer.DialContext(ctx, p.URL, nil); err != nil {
				b.t.Fatal(err)
			}
			go b.read()
			for _, domain := range []string{"Page", "Runtime", "Network", "Log"} {
				b.call(domain+".enable", nil)
			}
			return
		}
	}
	b.t.Fatalf("chromium has no page: %s", out)
}

// read takes in answers and events until the connection ends.
func (b *browser) read() {
	for {
		var msg struct {
			ID     int             `json:"id"`
			Method string          `json:"method"`
			Params json.RawMessage `json:"params"`
			Result json.RawMessage `json:"result"`
			Error  json.RawMessage `json:"error"`
		}
		if err := b.conn.ReadJSON(&msg); err != nil {
			return
		}
		b.mu.Lock()
		switch msg.Method {
		case "":
			if ch := b.waiting[msg.ID]; ch != nil {
				delete(b.waiting, msg.ID)
				if msg.Error != nil {
					msg.Result = msg.Error
				}
				ch <- msg.Result
			}
		case "Network.requestWillBeSent":
			var p struct{ Request struct{ URL string } }
			json.Unmarshal(msg.Params, &p)
			b.requests = append(b.requests, p.Request.URL)
		case "Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded":
			b.said = append(b.said, string(msg.Params))
		case "Page.loadEventFired":
			b.loads++
			select {
			case b.loaded <- struct{}{}:
			default:
			}
		}
		b.mu.Unlock()
	}
}

// call asks for one thing, and returns the answer.
func (b *browser) call(method string, params map[string]any) json.RawMessage {
	b.t.Helper()
	if params == nil {
		params = map[string]any{}
	}
	ch := make(chan json.RawMessage, 1)
	b.mu.Lock()
	b.last++
	id := b.last
	b.waiting[id] = ch
	err := b.conn.WriteJSON(map[string]any{"id": id, "method": method, "params": params})
	b.mu.Unlock()
	if err != nil {
		b.t.Fatal(err)
	}
	select {
	case result := <-ch:
		return result
	case <-time.After(lan.AtMost(browserTime)):
		b.t.Fatalf("chromium does not answer %s", method)
	}
	return nil
}

// open loads a page.
func (b *browser) open(url string) {
	b.t.Helper()
	select {
	case <-b.loaded:
	default:
	}
	b.call("Page.navigate", map[string]any{"url": url})
	select {
	case <-b.loaded:
	case <-time.After(lan.AtMost(browserTime)):
		b.t.Fatalf("%s does not load", url)
	}
}

// eval returns what a JavaScript expression is, as text.
func (b *browser) eval(expression string) string {
	b.t.Helper()
	var out struct {
		Result           struct{ Value any }
		ExceptionDetails json.RawMessage
	}
	answer := b.call("Runtime.evaluate", map[string]any{"expression": expression, "returnByValue": true, "awaitPromise": true})
	if err := json.Unmarshal(answer, &out); err != nil || out.ExceptionDetails != nil {
		b.t.Fatalf("%s: %v, %s", expression, err, answer)
	}
	return fmt.Sprint(out.Result.Value)
}

// until waits for an expression to be true.
func (b *browser) until(expression string) {
	b.t.Helper()
	for limit := time.Now().Add(lan.AtMost(browserTime)); b.eval(expression) != "true"; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(limit) {
			b.t.Fatalf("%s stays false; the page says:\n%s", expression, b.eval("document.body.innerText"))
		}
	}
}

// screen sets the width and the colour scheme: dark or light.
func (b *browser) screen(width int, scheme string) {
	b.t.Helper()
	b.call("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": 900, "deviceScaleFactor": 1,
		"mobile": width < 600})
	b.call("Emulation.setEmulatedMedia", map[string]any{"features": []map[string]string{{"name": "prefers-color-scheme", "value": scheme}}})
}

// picture returns the whole page as PNG.
func (b *browser) picture() []byte {
	b.t.Helper()
	var size struct {
		CSSContentSize struct{ Width, Height float64 }
	}
	if err := json.Unmarshal(b.call("Page.getLayoutMetrics", nil), &size); err != nil {
		b.t.Fatal(err)
	}
	return b.clip(size.CSSContentSize.Width, size.CSSContentSize.Height)
}

// clip returns the page's upper left corner, so wide and so high.
func (b *browser) clip(width, height float64) []byte {
	b.t.Helper()
	var shot struct{ Data string }
	clip := map[string]any{"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
	if err := json.Unmarshal(b.call("Page.captureScreenshot", map[string]any{"captureBeyondViewport": true, "clip": clip}),
		&shot); err != nil {
		b.t.Fatal(err)
	}
	png, err := base64.StdEncoding.DecodeString(shot.Data)
	if err != nil || len(png) == 0 {
		b.t.Fatalf("no picture: %v", err)
	}
	return png
}

// html is the page as it is now.
func (b *browser) html() string {
	b.t.Helper()
	var doc struct{ Root struct{ NodeID int } }
	var out struct{ OuterHTML string }
	err := json.Unmarshal(b.call("DOM.getDocument", nil), &doc)
	if err == nil {
		err = json.Unmarshal(b.call("DOM.getOuterHTML", map[string]any{"nodeId": doc.Root.NodeID}), &out)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	return out.OuterHTML
}

// seen returns what was asked for and said since the last time.
func (b *browser) seen() (requests, said []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	requests, said = b.requests, b.said
	b.requests, b.said = nil, nil
	return requests, said
}
