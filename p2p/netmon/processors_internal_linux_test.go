package netmon

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestSpareProcessors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		idle, err := 1000.0, error(nil)
		p := Processors{Idle: func() (float64, error) { return idle, err }}
		if p.Spare() {
			t.Error("spare before anything was measured")
		}
		for _, step := range []struct {
			idle float64 // in the time since
			wait time.Duration
			want bool
		}{
			{2, time.Second, true}, // two processors with nothing to do
			{0.3, time.Second, true},
			{0.2, time.Second, false},
			{5, time.Second / 2, false}, // asked too early to be measured
			{0, time.Second / 2, true},
			{2, 10 * time.Second, false},
			{3, 10 * time.Second, true},
		} {
			time.Sleep(step.wait)
			idle += step.idle
			if got := p.Spare(); got != step.want {
				t.Errorf("%v s idle in %v: spare %v, want %v", step.idle, step.wait, got, step.want)
			}
		}
		time.Sleep(time.Second)
		if err = errors.New("no such file"); p.Spare() {
			t.Error("spare, although that is not known")
		}
	})
}

func TestIdleProcessorsOfThisMachine(t *testing.T) {
	before, err := IdleProcessors()
	if err != nil || before <= 0 {
		t.Errorf("IdleProcessors = %v, %v", before, err)
	}
}
