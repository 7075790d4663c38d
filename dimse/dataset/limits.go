package dataset

// Limits bound what a data set may cost. The zero value of a field means its
// default.
type Limits struct {
	// MaxDepth is how deep sequences may be nested. Real objects stay below ten;
	// thousands of levels have crashed other products (DCMTK 885ff0f10).
	MaxDepth int
	// MaxElementBytes is the largest value that is kept. A larger one is walked, not kept.
	MaxElementBytes int64
	// MaxInflateRatio is how many times its deflated size a deflated data set may
	// have once it is larger than MaxInflateFree.
	MaxInflateRatio int64
	// MaxInflateFree is the inflated size up to which no ratio is asked for: an image
	// of air deflates 1000 to 1 and is no attack.
	MaxInflateFree int64
}

// DefaultLimits are the limits that the zero Limits stands for.
var DefaultLimits = Limits{
	MaxDepth:        64,
	MaxElementBytes: 64 << 10,
	MaxInflateRatio: 100,
	MaxInflateFree:  64 << 20,
}

func (l Limits) withDefaults() Limits {
	if l.MaxDepth <= 0 {
		l.MaxDepth = DefaultLimits.MaxDepth
	}
	if l.MaxElementBytes <= 0 {
		l.MaxElementBytes = DefaultLimits.MaxElementBytes
	}
	if l.MaxInflateRatio <= 0 {
		l.MaxInflateRatio = DefaultLimits.MaxInflateRatio
	}
	if l.MaxInflateFree <= 0 {
		l.MaxInflateFree = DefaultLimits.MaxInflateFree
	}
	return l
}
