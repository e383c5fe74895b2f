package nixstore

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nix-community/go-nix/pkg/wire"
)

// greeted returns a connection to a daemon that answers each request with the end of its messages.
func greeted() *daemonConn {
	client, server := net.Pipe()
	go func() {
		for {
			if _, err := wire.ReadUint64(server); err != nil || wire.WriteUint64(server, stderrLast) != nil {
				return
			}
		}
	}()
	return &daemonConn{rwc: client, r: wireReader{r: bufio.NewReader(client)}, w: bufio.NewWriter(client), born: time.Now(),
		version: workerVersion}
}

func request(reply func()) daemonRequest {
	return daemonRequest{op: 1, args: func(io.Writer, uint64) {}, reply: func(*wireReader) { reply() }}
}

func TestPanicInAReplyIsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDaemon(func(context.Context) (rwc, error) { return nil, errors.New("no second connection") })
		defer d.close()
		d.slots <- struct{}{}
		d.put(greeted(), true)
		err := d.call(t.Context(), request(func() { panic("odd answer") }))
		if err == nil || !strings.Contains(err.Error(), "odd answer") {
			t.Errorf("a request with a reply that panics = %v, want an error with the panic", err)
		}
	})
}

// A daemon may refuse more connections, or its socket be away for a moment, while a connection is there.
func TestRequestWaitsForABusyConnectionIfNoOtherCanBeMade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dials atomic.Int32
		d := newDaemon(func(context.Context) (rwc, error) {
			dials.Add(1)
			return nil, errors.New("no second connection")
		})
		defer d.close()
		d.slots <- struct{}{}
		d.put(greeted(), true)
		busy := make(chan error)
		go func() { busy <- d.call(t.Context(), request(func() { time.Sleep(time.Second) })) }()
		synctest.Wait()
		if err := d.call(t.Context(), request(func() {})); err != nil {
			t.Errorf("a request beside a busy connection = %v", err)
		}
		if err := <-busy; err != nil {
			t.Error(err)
		}
		if n := dials.Load(); n < 2 || n > 20 {
			t.Errorf("%d connections were tried in a second, want one each 100 ms", n)
		}
		<-d.ready
		d.put(d.pop(), false)
		if err := d.call(t.Context(), request(func() {})); err == nil || !strings.Contains(err.Error(), "no second") {
			t.Errorf("a request without any connection = %v, want the reason why none can be made", err)
		}
	})
}

// A read from a file server that hangs cannot be ended.
func TestCloseDoesNotWaitForWhatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hangs := make(chan struct{})
		d := newDaemon(func(context.Context) (rwc, error) {
			<-hangs
			return nil, errors.New("late")
		})
		ctx, cancel := context.WithCancel(t.Context())
		go d.call(ctx, request(func() {}))
		synctest.Wait()
		start := time.Now()
		d.close()
		if took := time.Since(start); took != closeLimit {
			t.Errorf("close took %v, want %v", took, closeLimit)
		}
		cancel()
		close(hangs)
		synctest.Wait()
		if len(d.slots) > 0 {
			t.Errorf("%d connections are left", len(d.slots))
		}
	})
}
