package commitment

import "hilum/dimse"

// EventsOf is the handler on an association that was requested to ae.
func EventsOf(r *Requester, ae string) dimse.NHandler { return eventsOf{r, ae} }
