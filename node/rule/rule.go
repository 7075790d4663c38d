// Package rule decides which series go to which pipeline, and explains it.
//
// A rule holds conditions on attributes of a series. It matches when every one
// of its conditions does. All rules that match count, not only the first; a
// fallback rule counts when no other one matched.
package rule

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/grailbio/go-dicom/dicomtag"
)

// CallingAE is the attribute that stands for the AE titles that sent the
// series. Every other attribute is a keyword of PS3.6.
const CallingAE = "calling AE title"

// Rule sends series to a pipeline.
type Rule struct {
	Name       string
	Pipeline   string
	Urgent     bool // before the series of rules that are not
	Fallback   bool // only for series that no other rule takes
	Conditions []Condition
}

// Condition is what one attribute of a series must be.
type Condition struct {
	Attribute string
	any       []pattern // one must match, if there are any
	none      []pattern // none may match
	text      string    // as written
}

// NewCondition reads the patterns of a condition; any of them is enough:
//
//	CT          this text, in small or capital letters
//	*LUNG*      a text with these in it; ? is one character
//	1..2.5      a number from 1 to 2.5, also 1.. and ..2.5
//	<3 <=3 >3 >=3
//	""          nothing: the series does not have it
//	!PATTERN    anything but this, which outweighs the others
//
// The error is a sentence without the name of the key.
func NewCondition(attribute string, patterns []string) (Condition, error) {
	c := Condition{Attribute: attribute}
	if attribute != CallingAE {
		if _, err := dicomtag.FindByName(attribute); err != nil {
			return c, fmt.Errorf("%q is not a keyword of DICOM, such as SliceThickness", attribute)
		}
	}
	if len(patterns) == 0 {
		return c, fmt.Errorf("no value is given")
	}
	quoted := make([]string, len(patterns))
	for i, text := range patterns {
		quoted[i] = quote(text)
		positive, negated := strings.CutPrefix(text, "!")
		p, err := parsePattern(positive)
		if err != nil {
			return c, err
		}
		if negated {
			c.none = append(c.none, p)
		} else {
			c.any = append(c.any, p)
		}
	}
	c.text = strings.Join(quoted, " or ")
	return c, nil
}

func quote(s string) string {
	if s == "" {
		return "nothing"
	}
	return s
}

// pattern is one pattern: a range of numbers or a text with wildcards.
type pattern struct {
	text                string // lower case; used unless numeric
	numeric             bool
	low, high           float64
	hasLow, hasHigh     bool
	aboveLow, belowHigh bool // the bounds themselves are outside
}

func parsePattern(s string) (pattern, error) {
	fail := func(number string) (pattern, error) {
		return pattern{}, fmt.Errorf("%q is not a range: %q is not a number", s, number)
	}
	for _, op := range []string{"<=", ">=", "<", ">"} {
		rest, ok := strings.CutPrefix(s, op)
		if !ok {
			continue
		}
		n, err := number(rest)
		if err != nil {
			return fail(rest)
		}
		p := pattern{numeric: true, low: n, high: n}
		p.hasLow, p.hasHigh = op[0] == '>', op[0] == '<'
		p.aboveLow, p.belowHigh = op == ">", op == "<"
		return p, nil
	}
	low, high, ok := strings.Cut(s, "..")
	if !ok || low == "" && high == "" {
		return pattern{text: strings.ToLower(strings.TrimSpace(s))}, nil
	}
	p := pattern{numeric: true, hasLow: low != "", hasHigh: high != ""}
	var err error
	if p.hasLow {
		if p.low, err = number(low); err != nil {
			return fail(low)
		}
	}
	if p.hasHigh {
		if p.high, err = number(high); err != nil {
			return fail(high)
		}
	}
	if p.hasLow && p.hasHigh && p.low > p.high {
		return p, fmt.Errorf("%q is an empty range: %s is more than %s", s, low, high)
	}
	return p, nil
}

func number(s string) (float64, error) {
	f, err := strconv.ParseFloat(strings.TrimSpace(s), 64)
	if err == nil && (f != f || f-f != 0) { // NaN, infinity
		err = strconv.ErrSyntax
	}
	return f, err
}

func (p pattern) matches(value string) bool {
	if !p.numeric {
		return glob(p.text, strings.ToLower(strings.TrimSpace(value)))
	}
	n, err := number(value)
	switch {
	case err != nil:
		return false
	case p.hasLow && (n < p.low || n == p.low && p.aboveLow):
		return false
	case p.hasHigh && (n > p.high || n == p.high && p.belowHigh):
		return false
	}
	return true
}

// glob matches with * and ?, in time that grows with the product of the lengths.
func glob(pattern, s string) bool {
	p, text := []rune(pattern), []rune(s)
	star, mark, i, j := -1, 0, 0, 0
	for j < len(text) {
		switch {
		case i < len(p) && p[i] == '*':
			star, mark = i, j
			i++
		case i < len(p) && (p[i] == '?' || p[i] == text[j]):
			i, j = i+1, j+1
		case star >= 0:
			mark++
			i, j = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(string(p[i:]), "*") == ""
}

// Series is what a rule looks at.
type Series struct {
	// Value returns an attribute by its keyword, several values with \ between
	// them as in a DICOM file, "" when the series does not have it.
	Value      func(keyword string) string
	CallingAEs []string // that sent it
}

func (s Series) values(attribute string) []string {
	if attribute == CallingAE {
		return s.CallingAEs
	}
	return strings.Split(s.Value(attribute), `\`)
}

// matches says if the condition holds, and if not, why.
func (c Condition) matches(s Series) (bool, string) {
	values := s.values(c.Attribute)
	if len(values) == 0 {
		values = []string{""}
	}
	holds := func(p pattern) bool { return slices.ContainsFunc(values, p.matches) }
	if slices.ContainsFunc(c.none, holds) || len(c.any) > 0 && !slices.ContainsFunc(c.any, holds) {
		return false, fmt.Sprintf("%s is %s, not %s", c.Attribute, quote(strings.Join(values, `\`)), c.text)
	}
	return true, ""
}

// Verdict says what became of one rule for one series.
type Verdict struct {
	Rule    string `json:"rule"`
	Applies bool   `json:"applies"`
	Why     string `json:"why"`
}

// Route is a pipeline that a series goes to.
type Route struct {
	Pipeline string
	Urgent   bool
	Rule     string // the first that leads there
}

// Decide applies rules to a series. Every pipeline comes once, urgent if one
// of the rules that lead there is. The verdicts are in the order of the rules.
func Decide(rules []Rule, s Series) ([]Route, []Verdict) {
	verdicts := make([]Verdict, len(rules))
	var routes []Route
	add := func(r Rule) {
		i := slices.IndexFunc(routes, func(route Route) bool { return route.Pipeline == r.Pipeline })
		if i < 0 {
			routes = append(routes, Route{Pipeline: r.Pipeline, Rule: r.Name})
			i = len(routes) - 1
		}
		routes[i].Urgent = routes[i].Urgent || r.Urgent
	}
	for i, r := range rules {
		verdicts[i] = Verdict{Rule: r.Name, Applies: true, Why: "all its conditions hold"}
		if len(r.Conditions) == 0 {
			verdicts[i].Why = "it has no conditions"
		}
		for _, c := range r.Conditions {
			if ok, why := c.matches(s); !ok {
				verdicts[i].Applies, verdicts[i].Why = false, why
				break
			}
		}
		if verdicts[i].Applies && !r.Fallback {
			add(r)
		}
	}
	taken := len(routes) > 0
	for i, r := range rules {
		switch {
		case !r.Fallback || !verdicts[i].Applies:
		case taken:
			verdicts[i].Applies, verdicts[i].Why = false, "it is a fallback, and another rule applies"
		default:
			verdicts[i].Why = "no other rule applies, and " + verdicts[i].Why
			add(r)
		}
	}
	return routes, verdicts
}

// Attributes are the keywords that rules look at, each once.
func Attributes(rules []Rule) []string {
	var all []string
	for _, r := range rules {
		for _, c := range r.Conditions {
			if c.Attribute != CallingAE && !slices.Contains(all, c.Attribute) {
				all = append(all, c.Attribute)
			}
		}
	}
	return all
}
