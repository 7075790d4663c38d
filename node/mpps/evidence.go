package mpps

import (
	"hilum/node/assemble"
	"hilum/node/task"
)

// Compare holds what steps list of a series against what is stored of it, by SOP
// Instance UID. It returns nothing where no step is completed, or one that is in
// progress still may list more.
func Compare(lists []List, stored map[string]bool) assemble.Procedure {
	var p assemble.Procedure
	counted := map[task.Object]bool{}
	for _, l := range lists {
		switch l.Status {
		case InProgress:
			return assemble.Procedure{}
		case Completed:
			p.Step = l.Step
		}
		for _, o := range l.Objects {
			if counted[o] {
				continue
			}
			counted[o] = true
			p.Listed++
			if !stored[o.SOPInstanceUID] {
				p.Missing++
			}
		}
	}
	if p.Step == "" {
		return assemble.Procedure{}
	}
	return p
}
