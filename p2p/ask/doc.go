// Package ask puts questions about store paths to neighbours, and weighs their answers.
//
// [Lookups] asks all neighbours at once. The first claim that [trust.Keys] verify is believed; a claim about another
// path is a strike, and one with a signature that does not verify is not believed. A [Finding] remembers the peers that
// have made the claim, so that a fetch finds holders without asking again. Nix waits for the answers, so each question
// has a deadline. Only for busy neighbours is it longer, within a budget for all questions.
//
// [Visits] asks non-neighbours for the paths that no neighbour had; no request waits for them. [Lookups.AskEach]
// reports what each neighbour answers, for users.
//
// Nothing is asked about a path that [secrets.Policy] keeps from neighbours: [Lookups.AskEach], [Visits]
// and offers check that, and callers of the other methods do.
package ask
