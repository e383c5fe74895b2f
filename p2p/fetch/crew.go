package fetch

// A crew is the goroutines that ask holders of a kind. One goroutine owns it.
type crew struct {
	size  int
	ended chan struct{} // gets a value when one has ended
}

func newCrew() crew { return crew{ended: make(chan struct{})} }

// start runs work in a goroutine. It returns false if work is nil.
func (c *crew) start(work func()) bool {
	if work == nil {
		return false
	}
	c.size++
	go func() {
		defer func() { c.ended <- struct{}{} }()
		work()
	}()
	return true
}

func (c *crew) wait() {
	for ; c.size > 0; c.size-- {
		<-c.ended
	}
}
