package report

import (
	"fmt"
	"html/template"
	"math"
	"strings"

	"hilum/trainer/froc"
)

// The chart's measures, in units of its view box.
const (
	chartWidth, chartHeight = 760.0, 420.0
	plotLeft, plotRight     = 58.0, 740.0
	plotTop, plotBottom     = 24.0, 356.0
	curveSteps              = 341 // points of the drawn curve: one for two units
)

// axes turns values into places: rates are on a binary logarithmic scale.
type axes struct {
	low float64 // sensitivity at the bottom
}

func (a axes) x(fp float64) float64 {
	rates := froc.Rates()
	first, last := math.Log2(rates[0]), math.Log2(rates[len(rates)-1])
	return plotLeft + (math.Log2(fp)-first)/(last-first)*(plotRight-plotLeft)
}

func (a axes) y(s float64) float64 {
	return plotBottom - (s-a.low)/(1-a.low)*(plotBottom-plotTop)
}

// chart draws the curve with its interval as inline SVG. All of its text is
// numbers of ours, so nothing needs escaping.
func chart(r *froc.Result) template.HTML {
	lowest := r.Sensitivity[0]
	for _, b := range r.Band {
		lowest = min(lowest, b.Low)
	}
	// The axis starts at a tenth with room below the curve.
	a := axes{low: max(0, math.Floor((lowest-0.05)*10)/10)}
	var s strings.Builder
	fmt.Fprintf(&s, `<svg viewBox="0 0 %g %g" role="img" aria-labelledby="froc-title froc-text">`, chartWidth, chartHeight)
	fmt.Fprintf(&s, `<title id="froc-title">FROC curve: sensitivity against false positives per scan</title><desc id="froc-text">CPM %s.`, sens(r.CPM))
	for i, fp := range froc.Rates() {
		fmt.Fprintf(&s, " %s at %s.", sens(r.Sensitivity[i]), rate(fp))
	}
	s.WriteString(`</desc>`)
	a.grid(&s)
	if len(r.Band) > 0 {
		s.WriteString(`<path class="band" d="`)
		for i, b := range r.Band {
			fmt.Fprintf(&s, "%c%.1f %.1f", "LM"[b2i(i == 0)], a.x(b.FP), a.y(b.High))
		}
		for i := len(r.Band) - 1; i >= 0; i-- {
			fmt.Fprintf(&s, "L%.1f %.1f", a.x(r.Band[i].FP), a.y(r.Band[i].Low))
		}
		s.WriteString(`Z"/>`)
	}
	s.WriteString(`<path class="curve" d="`)
	rates := froc.Rates()
	doublings := math.Log2(rates[len(rates)-1] / rates[0])
	for i := range curveSteps {
		fp := rates[0] * math.Exp2(doublings*float64(i)/(curveSteps-1))
		fmt.Fprintf(&s, "%c%.1f %.1f", "LM"[b2i(i == 0)], a.x(fp), a.y(r.At(fp)))
	}
	s.WriteString(`"/>`)
	for i, fp := range rates {
		x, y := a.x(fp), a.y(r.Sensitivity[i])
		label, anchor := y-13, "middle"
		switch i {
		case 0: // the curve rises into what is above
			label, anchor = y+22, "start"
		case len(rates) - 1:
			anchor = "end"
		}
		if label < plotTop {
			label = y + 22
		}
		if label > plotBottom-4 {
			label = y - 13
		}
		interval := ""
		if r.Samples > 0 {
			interval = fmt.Sprintf(" (95 %% interval %s to %s)", sens(r.SensLow[i]), sens(r.SensHigh[i]))
		}
		fmt.Fprintf(&s, `<g><title>%s at %s false positives per scan%s</title><circle class="point" cx="%.1f" cy="%.1f" r="4.5"/>`+
			`<text class="value" x="%.1f" y="%.1f" text-anchor="%s">%s</text></g>`,
			sens(r.Sensitivity[i]), rate(fp), interval, x, y, x, label, anchor, sens(r.Sensitivity[i]))
	}
	s.WriteString(`</svg>`)
	return template.HTML(s.String()) //nolint:gosec // numbers only
}

// grid draws the axes.
func (a axes) grid(s *strings.Builder) {
	step := 0.1
	if a.low < 0.35 {
		step = 0.2
	}
	for i := 0; ; i++ {
		v := 1 - step*float64(i)
		if v < a.low-1e-9 {
			break
		}
		class := "grid"
		if math.Abs(v-a.low) < 1e-9 {
			class = "axis"
		}
		fmt.Fprintf(s, `<line class="%s" x1="%g" x2="%g" y1="%.1f" y2="%.1f"/><text class="tick" x="%g" y="%.1f" text-anchor="end">%.1f</text>`,
			class, plotLeft, plotRight, a.y(v), a.y(v), plotLeft-10, a.y(v)+4.5, math.Abs(v))
	}
	fmt.Fprintf(s, `<line class="axis" x1="%g" x2="%g" y1="%g" y2="%g"/>`, plotLeft, plotRight, plotBottom, plotBottom)
	for _, fp := range froc.Rates() {
		x := a.x(fp)
		fmt.Fprintf(s, `<line class="axis" x1="%.1f" x2="%.1f" y1="%g" y2="%g"/><text class="tick" x="%.1f" y="%g" text-anchor="middle">%s</text>`,
			x, x, plotBottom, plotBottom+5, x, plotBottom+22, rate(fp))
	}
	fmt.Fprintf(s, `<text class="label" x="%g" y="%g" text-anchor="middle">false positives per scan</text>`, (plotLeft+plotRight)/2, chartHeight-14)
	fmt.Fprintf(s, `<text class="label" transform="translate(15 %g) rotate(-90)" text-anchor="middle">sensitivity</text>`, (plotTop+plotBottom)/2)
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}
