package flight_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"narbor/store/flight"
)

func TestEndOfALifeWaitsForItsWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		life := flight.NewLife()
		if !life.Enter() {
			t.Fatal("nothing may begin")
		}
		release, cause := make(chan struct{}), errors.New("over")
		var got atomic.Value
		if !life.Go(func() {
			<-life.Context().Done()
			got.Store(context.Cause(life.Context()))
			<-release
		}) {
			t.Fatal("no goroutine may start")
		}
		ended := make(chan struct{})
		go func() {
			life.End(cause)
			close(ended)
		}()
		isOver := func() bool {
			synctest.Wait()
			select {
			case <-ended:
				return true
			default:
				return false
			}
		}
		if isOver() || got.Load() != cause {
			t.Errorf("the cause is %v, and End may have returned before its work has ended", got.Load())
		}
		if life.Enter() || life.Go(func() { t.Error("it runs after the end") }) {
			t.Error("something begins after the end")
		}
		close(release)
		if isOver() {
			t.Error("End has not waited for Leave")
		}
		life.Leave()
		if !isOver() {
			t.Error("End has not returned after its work has ended")
		}
	})
}
