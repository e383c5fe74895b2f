package main

import (
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
)

// parseNft reads what `nft -j list ruleset` prints.
func parseNft(text []byte) (firewall, error) {
	var all struct {
		Nftables []struct {
			Chain *struct{ Family, Table, Name, Hook, Policy string }
			Set   *struct {
				Family, Table, Name string
				Elem                []any
			}
			Rule *struct {
				Family, Table, Chain string
				Expr                 []map[string]any
			}
		}
	}
	if err := json.Unmarshal(text, &all); err != nil {
		return firewall{}, err
	}
	f := firewall{policy: map[string]string{}, chains: map[string][]rule{}, insert: openNft}
	sets := map[string][]any{}
	for _, o := range all.Nftables {
		if s := o.Set; s != nil {
			sets[s.Family+" "+s.Table+" "+s.Name] = s.Elem
		}
		if c := o.Chain; c != nil && c.Hook == "input" && slices.Contains([]string{"inet", "ip", "ip6"}, c.Family) {
			name := c.Family + " " + c.Table + " " + c.Name
			f.base = append(f.base, name)
			f.policy[name] = c.Policy
		}
	}
	for _, o := range all.Nftables {
		if r := o.Rule; r != nil {
			table := r.Family + " " + r.Table + " "
			n := nftRule{expr: r.Expr, table: table, sets: sets}
			f.chains[table+r.Chain] = append(f.chains[table+r.Chain], rule{n.match, n.verdict})
		}
	}
	return f, nil
}

func openNft(pk packet, chain string) string {
	return fmt.Sprintf("nft insert rule %s %s dport %s accept", chain, pk.proto, pk.port)
}

// An nftRule is a rule as nft describes it.
type nftRule struct {
	expr  []map[string]any
	table string // "family table "
	sets  map[string][]any
}

// match says whether all conditions hold.
func (n nftRule) match(pk packet) truth {
	all := yes
	for _, e := range n.expr {
		if m, ok := e["match"].(map[string]any); ok {
			all = all.and(n.holds(m, pk))
		}
		if _, ok := e["xt"]; ok { // of iptables, and not to be read
			all = all.and(maybe)
		}
	}
	return all
}

// verdict says what the rule does.
func (n nftRule) verdict(pk packet) (string, truth) {
	for _, e := range n.expr {
		for kind, v := range e {
			switch kind {
			case "accept", "drop", "return":
				return kind, yes
			case "reject", "queue":
				return verdictDrop, yes
			case "jump", "goto":
				if to, ok := v.(map[string]any); ok {
					return fmt.Sprintf("%s %s%v", kind, n.table, to["target"]), yes
				}
			case "vmap":
				return n.mapped(v, pk)
			}
		}
	}
	return "", yes
}

// mapped looks a verdict up in a map.
func (n nftRule) mapped(v any, pk packet) (string, truth) {
	m, ok := v.(map[string]any)
	if !ok {
		return "", no
	}
	data, _ := m["data"].(map[string]any)
	pairs, _ := data["set"].([]any)
	for _, p := range pairs {
		pair, ok := p.([]any)
		if !ok || len(pair) != 2 {
			continue
		}
		is := n.holds(map[string]any{"op": "==", "left": m["key"], "right": pair[0]}, pk)
		if do, ok := pair[1].(map[string]any); ok && is != no {
			verdict, _ := nftRule{expr: []map[string]any{do}, table: n.table}.verdict(pk)
			return verdict, is
		}
	}
	return "", no
}

// holds says whether one condition does.
func (n nftRule) holds(m map[string]any, pk packet) truth {
	left, _ := m["left"].(map[string]any)
	value, known := pk.field(left)
	if !known {
		return maybe
	}
	if value == nil { // of another protocol
		return no
	}
	in := no
	for _, v := range value {
		if t := n.contains(m["right"], v); t != no {
			in = t
		}
	}
	switch op, _ := m["op"].(string); op {
	case "==", "in":
		return in
	case "!=":
		return [...]truth{no: yes, yes: no, maybe: maybe}[in]
	}
	return maybe
}

// field is what a packet has where an expression looks; nil if it has no such field, and known false if that is not known.
func (pk packet) field(left map[string]any) (value []string, known bool) {
	if meta, ok := left["meta"].(map[string]any); ok {
		switch meta["key"] {
		case "l4proto":
			return []string{pk.proto}, true
		case "iifname", "iif":
			return []string{pk.iface}, true
		case "pkttype":
			if pk.multicast {
				return []string{"multicast"}, true
			}
			return []string{"host", "unicast"}, true
		}
	}
	if pay, ok := left["payload"].(map[string]any); ok {
		switch proto, field := pay["protocol"], pay["field"]; {
		case (proto == "tcp" || proto == "udp" || proto == "sctp" || proto == "dccp" || proto == "icmp" || proto == "icmpv6") && proto != pk.proto:
			return nil, true
		case (proto == pk.proto || proto == "th") && field == "dport":
			return []string{pk.port}, true
		case proto == "udp" && field == "sport" && pk.multicast:
			return []string{pk.port}, true
		case proto == "ip" && field == "protocol":
			return []string{pk.proto}, true
		case proto == "ip" && field == "daddr" && pk.multicast:
			return []string{"224.0.0.251"}, true
		case proto == "ip6" && field == "daddr" && pk.multicast:
			return []string{"ff02::fb"}, true
		}
	}
	if ct, ok := left["ct"].(map[string]any); ok && ct["key"] == "state" {
		return []string{"new"}, true
	}
	return nil, false
}

// contains says whether a value is the right side of a condition, or in it.
func (n nftRule) contains(right any, value string) truth {
	switch r := right.(type) {
	case string:
		if name, ok := strings.CutPrefix(r, "@"); ok {
			return n.contains(n.sets[n.table+name], value)
		}
		ok, err := path.Match(r, value) // interfaces may end in *
		return known(r == value || err == nil && ok)
	case float64:
		return known(strconv.FormatFloat(r, 'f', -1, 64) == value)
	case []any:
		in := no
		for _, one := range r {
			if t := n.contains(one, value); t == yes {
				return yes
			} else if t == maybe {
				in = maybe
			}
		}
		return in
	case map[string]any:
		if set, ok := r["set"]; ok {
			return n.contains(set, value)
		}
		if elem, ok := r["elem"].(map[string]any); ok {
			return n.contains(elem["val"], value)
		}
		if ends, ok := r["range"].([]any); ok && len(ends) == 2 {
			low, isNumber := ends[0].(float64)
			high, isNumber2 := ends[1].(float64)
			v, err := strconv.ParseFloat(value, 64)
			if isNumber && isNumber2 && err == nil {
				return known(low <= v && v <= high)
			}
		}
	}
	return maybe
}

func known(b bool) truth {
	if b {
		return yes
	}
	return no
}
