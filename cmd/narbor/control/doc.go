// Package control is what the commands of narbor and the narbor that runs say to each other: the types of the answers,
// which --json prints as they are, and the client and server of the control socket.
//
// The socket speaks HTTP. Every user that can enter its directory may query; a request that changes something, or that
// is about what only the owner may know, needs the peer credentials of root or of the user that narbor runs as (see
// [Change]). A request and its answer are bounded in size and time. An error carries the exit code of the command that
// asked.
//
// The package holds no state and starts nothing: the service listens and serves, and stops that.
package control
