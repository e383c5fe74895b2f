package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// parseIptables reads what `iptables -S` prints: of the table filter, the chain INPUT.
func parseIptables(text string) firewall {
	words := regexp.MustCompile(`"[^"]*"|\S+`)
	f := firewall{base: []string{"INPUT"}, policy: map[string]string{"INPUT": verdictAccept}, chains: map[string][]rule{}, insert: openIptables}
	for line := range strings.Lines(text) {
		w := words.FindAllString(line, -1)
		switch {
		case len(w) == 3 && w[0] == "-P":
			f.policy[w[1]] = iptablesVerdict(w[2])
		case len(w) > 2 && w[0] == "-A":
			f.chains[w[1]] = append(f.chains[w[1]], iptablesRule(w[2:]))
		}
	}
	return f
}

func openIptables(pk packet, _ string) string {
	return fmt.Sprintf("iptables -I INPUT -p %s --dport %s -j ACCEPT", pk.proto, pk.port)
}

func iptablesVerdict(target string) string {
	switch target {
	case "ACCEPT":
		return verdictAccept
	case "DROP", "REJECT", "QUEUE", "NFQUEUE":
		return verdictDrop
	case "RETURN":
		return verdictReturn
	case "LOG", "NFLOG", "MARK", "CONNMARK", "TCPMSS", "AUDIT":
		return ""
	}
	return "jump " + target
}

func iptablesRule(words []string) rule {
	verdict := ""
	var conditions []func(packet) truth
	for not := false; len(words) > 0; {
		if words[0] == "!" {
			not, words = true, words[1:]
			continue
		}
		name, value := words[0], ""
		words = words[1:]
		if len(words) > 0 && !strings.HasPrefix(words[0], "-") && words[0] != "!" {
			value, words = words[0], words[1:]
		}
		if name == "-j" || name == "-g" {
			verdict = iptablesVerdict(value)
			if name == "-g" {
				verdict = strings.Replace(verdict, "jump ", "goto ", 1)
			}
			break // what follows belongs to the target
		}
		conditions = append(conditions, iptablesCondition(name, value, not))
		not = false
	}
	return rule{
		match: func(pk packet) truth {
			all := yes
			for _, c := range conditions {
				all = all.and(c(pk))
			}
			return all
		},
		verdict: func(packet) (string, truth) { return verdict, yes },
	}
}

// iptablesCondition reads one condition. What is not known to it may be so or not.
func iptablesCondition(name, value string, not bool) func(packet) truth {
	return func(pk packet) truth {
		t := maybe
		switch name {
		case "-m", "--comment", "--limit", "--limit-burst":
			return yes
		case "-p":
			t = known(value == pk.proto || value == "all")
		case "-i":
			prefix, any := strings.CutSuffix(value, "+")
			t = known(value == pk.iface || any && strings.HasPrefix(pk.iface, prefix))
		case "--dport", "--dports":
			t = known(slices.ContainsFunc(strings.Split(value, ","), func(r string) bool { return inPortRange(r, pk.port) }))
		case "--ctstate", "--state":
			t = known(slices.Contains(strings.Split(value, ","), "NEW"))
		case "-d":
			if pk.multicast {
				t = known(strings.HasPrefix(value, "224.0.0."))
			}
		case "--pkt-type":
			t = known(value == "multicast" == pk.multicast)
		}
		if not {
			t = [...]truth{no: yes, yes: no, maybe: maybe}[t]
		}
		return t
	}
}

// inPortRange says whether a port is the one, or in the range first:last.
func inPortRange(r, port string) bool {
	first, last, isRange := strings.Cut(r, ":")
	if !isRange {
		return r == port
	}
	var a, b, p int
	_, err := fmt.Sscan(first+" "+last+" "+port, &a, &b, &p)
	return err == nil && a <= p && p <= b
}
