package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/urfave/cli/v2"
	"go.uber.org/zap"

	"narbor/cmd/narbor/circle"
	"narbor/store/nixconf"
)

// errNewCircle ends a service because the state directory has another circle, or none any more.
var errNewCircle = errors.New("the circle has changed")

// serve runs services, each with the circle of its time, until one ends for another reason. line has the names of flags.
func serve(c *cli.Context, line []string, listeners []net.Listener) error {
	for {
		s, err := newService(c, listeners)
		if err != nil {
			return err
		}
		s.start.settings = settingsOf(c, line)
		if err := s.run(c.Context); !errors.Is(err, errNewCircle) {
			return err
		}
		if c.Context.Err() != nil {
			return nil
		}
		listeners = s.next
	}
}

// sayStopping announces the end of the service. If a new circle ends it, it returns errNewCircle, and the sockets stay open for
// the next one: Nix waits in their queues meanwhile, as it does when systemd restarts narbor.
func (s *service) sayStopping(ctx context.Context) error {
	if !errors.Is(context.Cause(ctx), errNewCircle) {
		s.notify(daemon.SdNotifyStopping)
		s.log.Info("stopping", zap.Duration("atMost", drainTime))
		return nil
	}
	s.log.Info("the circle has changed: narbor starts anew", zap.Duration("atMost", drainTime))
	s.next = []net.Listener{}
	for _, l := range s.listeners {
		again, err := duplicate(l)
		if err != nil {
			return err
		}
		s.next = append(s.next, again)
	}
	return errNewCircle
}

// duplicate returns a listener at the same socket, which stays open when the other one is closed.
func duplicate(l net.Listener) (net.Listener, error) {
	socket, ok := l.(interface{ File() (*os.File, error) })
	if !ok {
		return nil, fmt.Errorf("the socket at %s cannot be kept open", l.Addr())
	}
	f, err := socket.File()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return net.FileListener(f)
}

// watchesCircle reports that the state directory has another circle than this service; false is that ctx has ended.
func (s *service) watchesCircle(ctx context.Context) bool {
	if s.keys.group.state == "" {
		return false
	}
	w := circleWatch{dir: s.keys.group.state, now: s.keys.group.circle, log: s.log.Logger}
	w.identity, _ = os.Stat(w.identityFile())
	return w.run(ctx)
}

// A circleWatch compares the circle of a state directory with the one in force.
type circleWatch struct {
	dir      string
	now      *circle.Circle // nil is none
	identity fs.FileInfo    // of this machine's key, at the start; nil if it was not there
	log      *zap.Logger
}

func (w circleWatch) identityFile() string { return filepath.Join(w.dir, identityName) }

// run returns true once the circle has changed, and false once ctx has ended.
func (w circleWatch) run(ctx context.Context) bool {
	for ctx.Err() == nil {
		watching, stop := context.WithCancel(ctx)
		told := nixconf.WatchFiles(watching, []string{circle.File(w.dir)})
		changed := w.changed() // after the watch has begun, so that no change is missed
		if !changed {
			select {
			case <-ctx.Done():
			case <-told:
				select {
				case <-ctx.Done():
				case <-time.After(stateQuiet): // other files may be deleted, too
				}
			case <-time.After(stateCheck):
			}
		}
		stop()
		if told != nil {
			<-told
		}
		if changed {
			return true
		}
	}
	return false
}

// changed reports whether the state directory has another circle. One that cannot be read counts as none new, and one that was
// lost with the whole directory is written again.
func (w circleWatch) changed() bool {
	next, err := circle.Load(w.dir)
	switch {
	case err != nil:
		w.log.Error("the circle in the state directory cannot be read, and the membership stays as it was", zap.Error(err))
		return false
	case next == nil && w.now != nil && w.emptied():
		err := makeStateDir(w.dir)
		if err == nil {
			err = w.now.Save(w.dir, false)
		}
		w.log.Warn("the circle was deleted with the whole state directory, and is written again: `narbor circle leave` ends a membership",
			zap.String("circle", w.now.Name), zap.Error(err))
		return false
	case next == nil || w.now == nil:
		return next != w.now
	}
	return next.Secret != w.now.Secret || !slices.Equal(next.Keys, w.now.Keys)
}

// emptied reports that the state directory has lost this machine's key since the start, although it may have it again by now.
func (w circleWatch) emptied() bool {
	if w.identity == nil {
		return false
	}
	st, err := os.Stat(w.identityFile())
	return err != nil || !os.SameFile(st, w.identity) || !st.ModTime().Equal(w.identity.ModTime())
}
