package netmon

import (
	"cmp"
	"context"
	"maps"
	"os"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"
	"go.uber.org/zap"
)

const (
	// meterTimeout bounds one question to NetworkManager, which answers in milliseconds; no request waits for it.
	meterTimeout = time.Second

	// systemBus is where D-Bus is unless its own variable in the environment says otherwise.
	systemBus = "unix:path=/run/dbus/system_bus_socket"

	networkManager       = "org.freedesktop.NetworkManager"
	networkManagerDevice = networkManager + ".Device"
)

// A meter knows which interfaces NetworkManager takes for metered. Where there is no NetworkManager, or it does not
// answer, none is. A nil meter knows of none.
type meter struct {
	bus     string        // D-Bus address
	looking chan struct{} // it is time to ask

	mu      sync.Mutex // guards metered
	metered map[string]bool
}

// newMeter returns a meter that asks on the bus at a D-Bus address; "" is the system's.
func newMeter(bus string) *meter {
	return &meter{bus: cmp.Or(bus, os.Getenv("DBUS_SYSTEM_BUS_ADDRESS"), systemBus), looking: make(chan struct{}, 1)}
}

// names returns the interfaces that were metered when they were looked at last. The caller does not change it.
func (m *meter) names() map[string]bool {
	if m == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.metered
}

// look has NetworkManager asked soon. It does not wait.
func (m *meter) look() {
	if m != nil {
		Hint(m.looking)
	}
}

// follow asks after each look until ctx ends, and gives a hint when the answer is another than before.
func (m *meter) follow(ctx context.Context, log *zap.Logger, hints chan<- struct{}) {
	for m != nil {
		select {
		case <-ctx.Done():
			return
		case <-m.looking:
		}
		now, err := m.ask(ctx)
		if err != nil {
			log.Debug("metered interfaces are not known", zap.Error(err))
		}
		m.mu.Lock()
		changed := !maps.Equal(now, m.metered)
		m.metered = now
		m.mu.Unlock()
		if changed {
			Hint(hints)
		}
	}
}

// ask returns the interfaces that NetworkManager takes for metered.
func (m *meter) ask(ctx context.Context) (map[string]bool, error) {
	ctx, cancel := context.WithTimeout(ctx, meterTimeout)
	defer cancel()
	conn, err := dbus.Connect(m.bus, dbus.WithContext(ctx))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	var devices []dbus.ObjectPath
	call := conn.Object(networkManager, "/org/freedesktop/NetworkManager").
		CallWithContext(ctx, networkManager+".GetDevices", dbus.FlagNoAutoStart)
	if err := call.Store(&devices); err != nil {
		return nil, err
	}
	metered := make(map[string]bool)
	for _, path := range devices {
		var properties map[string]dbus.Variant
		call := conn.Object(networkManager, path).
			CallWithContext(ctx, "org.freedesktop.DBus.Properties.GetAll", dbus.FlagNoAutoStart, networkManagerDevice)
		if call.Store(&properties) != nil {
			continue // it has gone meanwhile
		}
		name, _ := properties["Interface"].Value().(string)
		// NMMetered: 0 unknown, 1 yes, 2 no, 3 probably, 4 probably not.
		if v, _ := properties["Metered"].Value().(uint32); v == 1 || v == 3 {
			metered[name] = true
		}
	}
	return metered, ctx.Err()
}
