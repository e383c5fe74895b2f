package main

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"narbor/cmd/narbor/control"
	"narbor/cmd/narbor/doctor"
	"narbor/trust"
)

// The fields that a report may have. A field that is not named here is left out, so a new field of the status does not leave
// the machine before it has a rule.

func amountRules() map[string]keeper {
	received := keepNumbers("neighbours", "internetByOthers", "internet", "store")
	rules := map[string]keeper{"received": received, "date": momentRule(), "start": momentRule()}
	for _, name := range []string{"byNix", "byNixPaths", "sent", "nars", "found", "missed", "seconds", "savedSeconds"} {
		rules[name] = keepNumber
	}
	return rules
}

func versionRule() keeper {
	return keepFields(map[string]keeper{"schema": keepNumber, "version": versionText(), "go": keepPattern(`go[0-9.]+`),
		"os":   keepPattern("[a-z0-9]{1,10}"),
		"arch": keepPattern("[a-z0-9]{1,10}"), "revision": keepPattern("[0-9a-f]{40}")})
}

func versionText() keeper { return keepPattern(`[0-9]+\.[0-9]+\.[0-9]+(-dev)?`) }

// findingsRule keeps the codes of checks, and those that only the health of a running narbor has.
func findingsRule() keeper {
	codes := []string{"store", "damaged", doctor.CodeOtherKeys, "nothing-shared", "sharing-paused", "sharing-off", "banned-peers",
		"other-group", "circle-keys", "circle-changed",
		"accounts-lost", "misspelt", "nix-conf", "cache-not-trusted", "vsock"}
	for _, ch := range doctor.Checks() {
		codes = append(codes, ch.Code)
	}
	return keepEach(keepFields(map[string]keeper{"code": keepWord(codes...),
		"severity": keepWord(control.SeverityOK, control.SeverityInfo, control.SeverityWarning, control.SeverityError,
			control.SeveritySkipped),
		"text": phraseRule(), "safe": keepNumber, "means": keepEach(keepWord(doctor.Means()...))}))
}

func doctorRule() keeper {
	return keepFields(map[string]keeper{"schema": keepNumber, "findings": findingsRule()})
}

func viaRule() keeper {
	return keepWord("named", "kernel", "dns-sd", "mdns", "gateway", "remembered", "exchange", "vsock", "inbound")
}

func neighboursRule() keeper {
	rules := map[string]keeper{"id": peerRule(), "addr": addressRule(), "via": viaRule()}
	for _, name := range []string{"connectedSeconds", "claims", "blocksReceived", "bytesReceived", "wireReceived", "bytesWasted",
		"blocksSent", "bytesSent", "blocksRelayed", "wireSent", "strikes"} {
		rules[name] = keepNumber
	}
	return keepEach(keepFields(rules))
}

func bannedRule() keeper {
	return keepEach(keepFields(map[string]keeper{"id": peerRule(), "reason": phraseRule(), "until": momentRule()}))
}

func outsidersRule() keeper {
	return keepEach(keepFields(map[string]keeper{"id": peerRule(), "addr": addressRule()}))
}

func keepKinds() keeper {
	rules := map[string]keeper{}
	for _, kind := range trust.Kinds() {
		rules[string(kind)] = keepNumbers("asked", "sent")
	}
	return keepFields(rules)
}

func statusRule() keeper {
	refused := keepNumbers("bad_signature", "untrusted_key", "hash_mismatch", "name_mismatch", "malformed", "probing")
	rules := map[string]keeper{
		"version": versionText(), "peerId": peerRule(), "addrs": keepEach(addressRule()), "http": keepEach(addressRule()),
		"neighbours": neighboursRule(),
		"interfaces": keepEach(keepFields(map[string]keeper{"name": keepText((*redactor).iface), "used": keepNumber,
			"reason": phraseRule()})),
		"banned": bannedRule(), "otherGroup": outsidersRule(), "blocked": keepEach(peerRule()),
		"upstreams": keepEach(keepFields(map[string]keeper{"down": keepNumber, "wireReceived": keepNumber})),
		"received":  keepNumbers("neighbours", "internetByOthers", "internet", "store"), "alone": phraseRule(), "rejected": refused,
		"bans": refused, "shared": keepKinds(),
		"discovery": keepFields(map[string]keeper{"question": keepNumbers("sent", "used", "ignored"),
			"announcement": keepNumbers("used", "ignored"), "unknown": keepNumbers("malformed", "dropped")}),
		"store": keepPresence, "storeProblem": phraseRule(), "cacheDirs": keepLength, "keys": keepEach(keyRule()),
		"shareKeys":  keepEach(keyRule()),
		"publicKeys": keepEach(keyRule()), "privateKeys": keepEach(keyRule()), "nixConfProblems": keepLength,
		"sharing": keepWord("signed", "none"), "pausedUntil": momentRule(), "health": findingsRule(),
		"nix":   keepNumbers("narinfoHits", "narinfoMisses", "narsServed", "narBytesServed", "aheadFetched", "aheadUsed"),
		"spool": keepNumbers("bytes", "entries", "maxBytes", "freeBytes", "minFree", "verified", "verifySeconds"),
	}
	for _, name := range []string{"schema", "uptimeSeconds", "goroutines", "settled", "mdns", "vsock", "vsockForbidden", "uploadRate",
		"group", "supplied", "shareSources", "forOthers", "budgetLeft", "cooperates", "proxies", "networks"} {
		rules[name] = keepNumber
	}
	return keepFields(rules)
}

func peersRule() keeper {
	return keepFields(map[string]keeper{"schema": keepNumber, "neighbours": neighboursRule(), "banned": bannedRule(),
		"blocked": keepEach(peerRule()), "otherGroup": outsidersRule(),
		"named": keepEach(keepFields(map[string]keeper{"text": addressRule(),
			"from":      keepWord("flag", "kernel", "added", "dns-sd", "vsock"),
			"connected": keepEach(peerRule())}))})
}

func keysRule() keeper {
	from := keepText(func(_ *redactor, s string) string {
		switch {
		case s == "--trusted-key" || s == "Nix's defaults":
			return s
		case strings.Contains(s, "nix.conf:"):
			return "nix.conf"
		}
		return "(left out)"
	})
	return keepFields(map[string]keeper{"schema": keepNumber,
		"keys": keepEach(keepFields(map[string]keeper{"name": keyRule(), "from": from, "shares": keepNumber,
			"class": keepWord(classPublic, classPrivate)}))})
}

func statsRule() keeper {
	share := keepFields(map[string]keeper{"name": peerRule(), "received": keepNumber, "sent": keepNumber, "last": momentRule()})
	return keepFields(map[string]keeper{"schema": keepNumber, "since": momentRule(), "days": keepEach(keepFields(amountRules())),
		"quarters": keepEach(keepFields(amountRules())),
		"peers":    keepEach(share), "names": keepLength,
		"requests": keepEach(keepFields(map[string]keeper{"time": momentRule(), "result": keepWord("hit", "found", "miss", "rejected"),
			"reason": phraseRule(),
			"count":  keepNumber, "bytes": keepNumber, "seconds": keepNumber, "origin": originRule(), "from": keepEach(peerRule())})),
		"now": keepEach(keepFields(map[string]keeper{"incoming": keepNumber, "size": keepNumber, "bytes": keepNumber, "seconds": keepNumber,
			"origin": originRule(), "peers": keepEach(peerRule())}))})
}

// configRule keeps the values of settings that are numbers or choices; of others it keeps the number of values.
func configRule() keeper {
	var names []string
	for _, f := range runFlags() {
		names = append(names, f.Names()[0])
	}
	choices := keepEach(keepPattern(`true|false|[0-9]+(\.[0-9]+)? ` +
		`?[kKMGT]?i?B?|[0-9]+%|signed|none|group|all|auto|debug|info|warn|error|console|json`))
	origin := keepWord("flag", "environment", "file", "default")
	one := func(r *redactor, v any) any {
		set, _ := v.(map[string]any)
		name, _ := set["name"].(string)
		if !slices.Contains(names, name) {
			return nil
		}
		values := keepLength
		if slices.Contains([]string{"port", "no-mdns", "no-vsock", "no-dns-sd", "no-page", "no-cooperate", "spool-size", "min-free",
			"upload-rate", "download-rate", "upstream-budget", "share", "share-sources", "log-level", "log-format"}, name) {
			values = choices
		}
		return map[string]any{"name": name, "origin": origin(r, set["origin"]), "values": values(r, set["values"])}
	}
	return keepFields(map[string]keeper{"schema": keepNumber, "settings": keepEach(one)})
}

// nixVersion finds Nix's version in what `nix --version` prints.
var nixVersion = regexp.MustCompile(`^nix \((?:Nix|Lix, like Nix|Determinate Nix [0-9.]+)\) [0-9]+(?:\.[0-9]+)*`)

var (
	// logLine is a line of the journal: a time, narbor[PID], and what [newLog] writes to the journal.
	logLine = regexp.MustCompile(`^(\d{4}-\d\d-\d\dT[0-9:]{8}[+-]\d\d:?\d\d) narbor\[\d+\]: (DEBUG|INFO|WARN|ERROR)  (?:([a-z0-9.]+)  ` +
		`)?([^{]*?)(?:  (\{.*\}))?$`)
	// frame is a line of a stack trace about a function of narbor's own. It names the packages, for a file of the user's may
	// stand below a folder of this name.
	frame = regexp.MustCompile(`narbor/(?:cmd/narbor(?:/circle|/control|/dashboard|/demo|/doctor|/exit|/watch)?|narserve(?:/stats)?|` +
		`p2p(?:/(?:ask|discovery|fetch|greet|mdns|meet|netmon|peers|ping|proxy|receive|secrets|serve|transport|wire))?|` +
		`store(?:/(?:bincache|damage|flight|gitstore|lru|nar|narinfocache|nixconf|nixstore|offered|rebase|spool|statefile|` +
		`upstream))?|trust)\.[\w.()*\[\]]+`) // with type parameters, which a trace writes as [...]
)

// logFields are the fields of log lines that go into a report.
func logFields() keeper {
	rules := map[string]keeper{"peer": peerRule(), "addr": addressRule(), "via": viaRule(), "interface": keepText((*redactor).iface),
		"reason": phraseRule(), "err": phraseRule(),
		"error": phraseRule(), "stack": keepText(func(_ *redactor,
			s string) string {
			return strings.Join(frame.FindAllString(s, -1), " ")
		})}
	for _, name := range []string{"size", "peers", "strikes", "sharing"} {
		rules[name] = keepNumber
	}
	for _, name := range []string{"dur", "atMost", "by"} {
		rules[name] = keepPattern(`([0-9.]+(h|m|s|ms|µs|ns))+`)
	}
	return keepFields(rules)
}

// logText keeps the journal lines of narbor's own logger, because its messages are constants, and the names of narbor's
// functions in a crash. It leaves out the loggers of other libraries: their messages have names in them.
func logText(r *redactor, journal string) string {
	var out strings.Builder
	keep := logFields()
	for line := range strings.Lines(journal) {
		m := logLine.FindStringSubmatch(strings.TrimSuffix(line, "\n"))
		if m == nil {
			if f := frame.FindString(line); f != "" {
				fmt.Fprintln(&out, f)
			}
			continue
		}
		when, level, logger, message := m[1], m[2], m[3], m[4]
		if i := strings.LastIndexByte(logger, '.'); slices.Contains([]string{"mdns", "server"}, logger[i+1:]) {
			continue
		}
		var v any
		_ = json.Unmarshal([]byte(m[5]), &v) // fields that are no JSON are left out
		line := []string{when, level, logger, message}
		if kept, ok := keep(r, v).(map[string]any); ok && len(kept) > 0 {
			text, _ := json.Marshal(kept)
			line = append(line, string(text))
		}
		fmt.Fprintln(&out, strings.Join(line, "  "))
	}
	return out.String()
}
