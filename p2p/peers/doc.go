// Package peers knows the peers of this machine: a [Neighbour] with its streams and the questions that it is asked in
// batches, and a [Ledger] of what each peer has done, with the list of those that are refused. A [Group] is the peers
// that have proved to know a common secret.
//
// Four types decide for the ledger and have no lock, goroutine or clock: record, its denyList and mismatches, and the
// setback of a tally.
//
// The package decides nothing about blocks and answers no requests. The goroutine of a neighbour is
// [Neighbour.AskLoop], with one reader for the stream that is open; the caller starts it, and it ends with the
// neighbour or its context. The ledger's is [Ledger.Run], which saves the list. All methods of exported types may be
// called concurrently unless their comments say otherwise.
package peers
