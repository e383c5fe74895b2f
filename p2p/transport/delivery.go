package transport

// A delivery is how the kernel sends what was written to a connection.
type delivery struct {
	rate  int64 // bytes per second; 0 if it is not known
	acked int64 // bytes
	idle  bool  // nothing is left to send or to be acknowledged
}
