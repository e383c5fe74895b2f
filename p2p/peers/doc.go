// Package peers knows the peers of this machine: a [Neighbour] with its streams and the questions that it is asked in
// batches, and a [Ledger] of what each peer has done, with the list of those that are refused. A [Group] is the peers
// that have proved to know a common secret.
//
// Four types decide for the ledger and have no lock, goroutine or clock: record, its denyList and mismatches, and the
// setback of a tally.
//
// The package decides nothing about blocks and answers no requests. A neighbour's only goroutine is [Neighbour.AskLoop], which
// the caller starts and which ends with the neighbour or its context; the ledger's is [Ledger.Run], which saves the
// list. All methods of exported types may be called concurrently unless their comments say otherwise.
package peers
