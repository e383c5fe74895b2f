package dashboard

import "narbor/cmd/narbor/control"

// NamesNote explains the sign before names.
const NamesNote = "~ stands before a name that a neighbour gives itself. It is not verified."

// maxNameShown is how many characters of a name are shown; tables stay narrow.
const maxNameShown = 16

// Names are what neighbours call themselves, by their IDs. None is verified.
type Names map[string]string

// NamesOf returns the names of the neighbours.
func NamesOf(st control.Status) Names {
	names := Names{}
	for _, n := range st.Neighbours {
		if n.Name != "" {
			names[n.ID] = n.Name
		}
	}
	return names
}

// Of returns enough of a peer ID to tell neighbours apart, and the name of that one if it has told any.
func (n Names) Of(id string) string {
	if name := NameText(n[id]); name != "" {
		return ShortID(id) + " " + name
	}
	return ShortID(id)
}

// NameText returns a name as it is shown, with the sign of one that is not verified; "" stays.
func NameText(name string) string {
	if name == "" {
		return ""
	}
	if r := []rune(name); len(r) > maxNameShown {
		name = string(r[:maxNameShown-1]) + "…"
	}
	return "~" + name
}
