package fetch

// A crew is the goroutines that ask holders of a kind. One goroutine owns it.
type crew struct {
	size  int
	ended chan struct{} // gets a value when one has ended
}

func newCrew() crew { return crew{ended: make(chan struct{})} }

func (c *crew) start(work func()) {
	c.size++
	go func() {
		defer func() { c.ended <- struct{}{} }()
		work()
	}()
}

func (c *crew) wait() {
	for ; c.size > 0; c.size-- {
		<-c.ended
	}
}
