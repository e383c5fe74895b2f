package mdns

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/zeroconf/v2"
	"github.com/miekg/dns"
)

func newTestBrowser(asks *int) *browser {
	e := newBrowser([]byte("?"), 7, new(Traffic))
	e.write = func([]byte) error {
		*asks++
		return nil
	}
	return e
}

func packed(t testing.TB, m *dns.Msg) []byte {
	t.Helper()
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func testQuestion(t testing.TB, id uint16) []byte {
	m := new(dns.Msg)
	m.SetQuestion(serviceName, dns.TypePTR)
	m.Id = id
	return packed(t, m)
}

// testAnswer is an answer about a name.
func testAnswer(t testing.TB, name string, ttl uint32, texts ...string) []byte {
	m := new(dns.Msg)
	m.Response = true
	m.Answer = []dns.RR{&dns.PTR{Hdr: dns.RR_Header{Name: serviceName, Rrtype: dns.TypePTR, Class: dns.ClassINET, Ttl: ttl}, Ptr: name}}
	m.Extra = []dns.RR{&dns.TXT{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: ttl}, Txt: texts}}
	return packed(t, m)
}

// In an hour, a machine that is alone asks every few minutes, and of 60 each asks once and then hardly ever.
func TestOneQuestionIsEnoughForALAN(t *testing.T) {
	for _, c := range []struct{ machines, nonNeighbours, least, most int }{{1, 0, 6, 12}, {60, 0, 6, 24}, {1, 1, 12, 40}, {60, 1, 12, 40}} {
		machines := c.machines
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			asks := make([]int, machines)
			browsers := make([]*browser, machines)
			for i := range browsers {
				browsers[i] = newTestBrowser(&asks[i])
				browsers[i].id = uint16(i)
				browsers[i].write = func([]byte) error {
					asks[i]++
					for _, other := range browsers {
						other.take(testQuestion(t, uint16(i)), time.Now())
					}
					return nil
				}
			}
			for _, e := range browsers {
				go e.askOn(ctx, func() bool { return c.nonNeighbours > 0 })
			}
			<-ctx.Done()
			synctest.Wait()
			sum := 0
			for i, n := range asks {
				sum += n
				if n == 0 {
					t.Errorf("machine %d of %d never asked", i, machines)
				}
			}
			if later := sum - machines; later < c.least || later > c.most {
				t.Errorf("%d machines that know %d non-neighbours asked %d times after the first, want %d to %d times in an hour",
					machines, c.nonNeighbours, later, c.least, c.most)
			}
		})
	}
}

func TestBrowserTakesAnnouncementsAlone(t *testing.T) {
	now := time.Now()
	name := "x." + serviceName
	probe := new(dns.Msg)
	probe.SetQuestion(name, dns.TypePTR)
	probe.Ns = []dns.RR{&dns.TXT{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: 60}, Txt: []string{"a"}}}
	for _, c := range []struct {
		name   string
		packet []byte
		found  int
		asked  bool
	}{
		{"an answer", testAnswer(t, name, 60, "a", "b"), 1, false},
		{"a probe", packed(t, probe), 1, false},
		{"a goodbye", testAnswer(t, name, 0, "a"), 0, false},
		{"another service", testAnswer(t, "x._printer._tcp.local.", 60, "a"), 0, false},
		{"a question", testQuestion(t, 8), 0, true},
		{"our own question", testQuestion(t, 7), 0, false},
		{"nonsense", append([]byte("x"), serviceLabels...), 0, false},
		{"nothing", nil, 0, false},
	} {
		e := newTestBrowser(new(int))
		found := e.take(c.packet, now)
		if len(found) != c.found || e.asked.Load() != c.asked {
			t.Errorf("%s: take = %d announcements, asked %v, want %d, %v", c.name, len(found), e.asked.Load(), c.found, c.asked)
		}
		for _, f := range found {
			if !f.Expiry.Equal(now.Add(time.Minute)) || f.Text[0] != "a" {
				t.Errorf("%s: take = %+v", c.name, f)
			}
		}
	}
}

func TestFloodOfPacketsIsNotTakenApart(t *testing.T) {
	e := newTestBrowser(new(int))
	now := time.Now()
	flood := func() (found int) {
		for i := range 10 * packetBurst {
			found += len(e.take(testAnswer(t, fmt.Sprintf("x%d.%s", i, serviceName), 60, "a"), now))
		}
		return found
	}
	if found := flood(); found != packetBurst {
		t.Errorf("of a flood, %d packets were taken apart, want %d", found, packetBurst)
	}
	now = now.Add(time.Second)
	if found := flood(); found != packetRate {
		t.Errorf("of a flood a second later, %d packets were taken apart, want %d", found, packetRate)
	}
}

func FuzzPacket(f *testing.F) {
	f.Add(testAnswer(f, "x."+serviceName, 60, "dnsaddr=/ip4/10.1.0.6/tcp/6273/p2p/x"))
	f.Add(testQuestion(f, 8))
	s := newTestService(f)
	f.Fuzz(func(t *testing.T, packet []byte) {
		var found []*zeroconf.ServiceEntry = newTestBrowser(new(int)).take(packet, time.Now())
		for _, e := range found {
			s.parse(e, netip.Addr{})
		}
	})
}

// Each packet about our service is counted once, whatever is in it.
func TestMulticastIsCounted(t *testing.T) {
	var asks int
	e := newTestBrowser(&asks)
	now := time.Now()
	e.take(testQuestion(t, 9), now)
	e.take(testQuestion(t, 7), now) // our own
	probe := new(dns.Msg)
	probe.SetQuestion(serviceName, dns.TypePTR)
	probe.Ns = []dns.RR{&dns.PTR{Hdr: dns.RR_Header{Name: serviceName, Rrtype: dns.TypePTR, Class: dns.ClassINET}, Ptr: serviceName}}
	e.take(packed(t, probe), now)
	e.take(serviceLabels, now) // no packet
	e.take([]byte("about something else"), now)
	if got, want := fmt.Sprint(e.traffic.Counts()["question"], e.traffic.Counts()["unknown"]),
		"map[ignored:1 sent:0 used:1] map[dropped:0 malformed:1]"; got != want {
		t.Errorf("counted %s, want %s", got, want)
	}
	for range 10 * packetBurst {
		e.take(serviceLabels, now)
	}
	if got := e.traffic.Counts()["unknown"]; got["dropped"] == 0 || got["malformed"]+got["dropped"] != 10*packetBurst+1 {
		t.Errorf("of a flood %v are counted", got)
	}
}
