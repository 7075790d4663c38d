// Package assemble decides when a series is whole.
//
// DICOM has no end of series: association end means nothing (some scanners
// send one image per association, some keep one open all day), and no header
// element is reliable. Decide weighs what the node knows at one moment and
// gives a verdict with a reason. It is a pure function; timers, storage and
// associations belong to its caller.
package assemble

import (
	"fmt"
	"time"
)

// Evidence is all that the node knows of a series at one moment.
type Evidence struct {
	Now          time.Time
	LastImage    time.Time // when the last new image was stored, or the node started, whichever is later
	Associations int       // open associations that brought an image of the series
	Instances    int       // images stored
	Completed    int       // images there were at the last completion, 0 if never complete
	Geometry     Geometry  // of all images stored
	Procedure    Procedure // what the scanner reported of the series
}

// Procedure is what completed performed procedure steps (MPPS) say of a series. The
// zero value is nothing.
type Procedure struct {
	Step    string // SOP Instance UID of a completed step
	Listed  int    // objects that the steps list in the series
	Missing int    // and that are not stored
}

// Rules are the waits, from the configuration.
type Rules struct {
	Quiet           time.Duration // no new image for this long, with nothing against completion
	AssociationWait time.Duration // … while an association that carried the series is still open
	GapWait         time.Duration // … while slices appear to be missing
}

// Verdict is the decision on a series.
type Verdict struct {
	Complete bool
	Reason   string    // for a person: why complete, or what is waited for
	Again    time.Time // when to decide again if no evidence changes; zero when Complete or when nothing is pending
}

// Decide gives the verdict on a series.
//
// The wait since the last image is the quiet time, lengthened while an
// association that carried the series is still open, and lengthened further
// while the geometry shows a gap. The longest wait that applies counts; when
// it is over the series is taken as whole, with the doubt in the reason, so
// that no series waits for ever.
func Decide(e Evidence, r Rules) Verdict {
	if e.Instances == 0 || e.Instances == e.Completed {
		return Verdict{Reason: "no new image"}
	}
	wait, doubt := r.Quiet, ""
	if e.Associations > 0 && r.AssociationWait > wait {
		wait, doubt = r.AssociationWait, "an association that carried it is still open"
	}
	if gap := e.Geometry.Problem; gap != "" && r.GapWait > wait {
		wait, doubt = r.GapWait, gap
	}
	// A step says what was made, not what was sent: with all of it here there is
	// nothing to wait for, but what is missing may never be sent. Later images are
	// beyond the list, and wait as without it.
	listed := e.Procedure
	if listed.Listed > 0 && listed.Missing == 0 && e.Completed < listed.Listed {
		reason := fmt.Sprintf("%s, all that performed procedure step %s lists", images(e.Instances), listed.Step)
		if e.Geometry.Problem != "" {
			reason += ", although " + e.Geometry.Problem
		}
		return Verdict{Complete: true, Reason: reason}
	}
	quiet := max(e.Now.Sub(e.LastImage), 0)
	if quiet < wait {
		reason := fmt.Sprintf("%s, waiting for %s without a new one", images(e.Instances), wait)
		if doubt != "" {
			reason += ": " + doubt
		}
		reason += missing(listed)
		return Verdict{Reason: reason, Again: e.LastImage.Add(wait)}
	}
	reason := fmt.Sprintf("%s, no new one for %s", images(e.Instances), wait)
	switch {
	case doubt != "":
		reason += ", although " + doubt
	case e.Geometry.Problem != "":
		reason += ", although " + e.Geometry.Problem
	case e.Geometry.Regular:
		reason += ", slices evenly spaced without a gap"
	}
	reason += missing(listed)
	if e.Completed > 0 {
		reason += fmt.Sprintf(" (%d when last complete)", e.Completed)
	}
	return Verdict{Complete: true, Reason: reason}
}

// missing names what a performed procedure step lists and is not here.
func missing(p Procedure) string {
	if p.Missing == 0 {
		return ""
	}
	return fmt.Sprintf("; %d of the %d that performed procedure step %s lists are missing", p.Missing, p.Listed, p.Step)
}

func images(n int) string {
	if n == 1 {
		return "1 image"
	}
	return fmt.Sprintf("%d images", n)
}
