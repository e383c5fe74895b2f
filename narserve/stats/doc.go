// Package stats counts what passes between Nix, this machine and others, and keeps that in a file.
//
// [Accounts] know the amounts by day for a year and by quarter of an hour for a day, the latest requests of Nix one by
// one, the transfers under way, and the peers and packages with the most bytes. An [Account] is a copy of that, at a
// moment: it is also what the file holds, as JSON. Whatever neighbours or paths can make grow has a bound.
//
// The package knows nothing of HTTP or of the network: the server of Nix's requests and the node of the neighbours
// report to it. [Accounts.Run] saves the file, and finds out which paths Nix got elsewhere; the server starts it. All
// methods may be called concurrently.
package stats
