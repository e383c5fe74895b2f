package fetch

// A crew is the goroutines that ask holders of a kind. One goroutine owns it.
type crew struct {
	size  int
	ended chan struct{} // gets a value when one has ended
}

func newCrew() crew { return crew{ended: make(chan struct{})} }

// add counts a goroutine, which calls leave at its end.
func (c *crew) add() (leave func()) {
	c.size++
	return func() { c.ended <- struct{}{} }
}

func (c *crew) wait() {
	for ; c.size > 0; c.size-- {
		<-c.ended
	}
}
