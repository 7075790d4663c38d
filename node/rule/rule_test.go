package rule_test

import (
	"slices"
	"strings"
	"testing"

	"hilum/node/rule"
)

func series(callers []string, pairs ...string) rule.Series {
	values := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		values[pairs[i]] = pairs[i+1]
	}
	return rule.Series{Value: func(keyword string) string { return values[keyword] }, CallingAEs: callers}
}

func condition(t *testing.T, attribute string, patterns ...string) rule.Condition {
	t.Helper()
	c, err := rule.NewCondition(attribute, patterns)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCondition(t *testing.T) {
	for _, tt := range []struct {
		patterns string // with | between them
		value    string
		want     bool
	}{
		{"CT", "CT", true},
		{"CT", "ct ", true},
		{"CT", "CTA", false},
		{"CT|PT", "PT", true},
		{"*LUNG*", "Thorax Lung 1.0", true},
		{"B?0*", "B60f", true},
		{"B?0*", "B6", false},
		{"*", "", true},
		{"?*", "", false},
		{"", "", true},
		{"", "x", false},
		{"1..2.5", "2.5", true},
		{"1..2.5", "2.500000", true},
		{"1..2.5", "2.6", false},
		{"1..2.5", "", false},
		{"1..2.5", "thin", false},
		{"..3", "-1", true},
		{"3..", "2.9", false},
		{"<3", "3", false},
		{"<=3", "3", true},
		{">3", "3", false},
		{">=3", "3.0", true},
		{"<1|>3", "2", false},
		{"<1|>3", "4", true},
		{"!*MIP*", "Thorax", true},
		{"!*MIP*", "Thorax MIP", false},
		{"T*|!*MIP*", "Thorax MIP", false},
		{"T*|!*MIP*", "Abdomen", false},
		{"!", "", false},
		{"DERIVED", `ORIGINAL\PRIMARY`, false},
		{"PRIMARY", `ORIGINAL\PRIMARY`, true},
		{"!PRIMARY", `ORIGINAL\PRIMARY`, false},
		{"..", "..", true}, // no range without a number
		{"*a*a*a*a*a*a*a*b", strings.Repeat("a", 5000), false},
	} {
		c := condition(t, "SeriesDescription", strings.Split(tt.patterns, "|")...)
		routes, verdicts := rule.Decide([]rule.Rule{{Name: "r", Pipeline: "p", Conditions: []rule.Condition{c}}}, series(nil, "SeriesDescription", tt.value))
		if got := len(routes) == 1; got != tt.want || verdicts[0].Applies != tt.want {
			t.Errorf("%q of %.40q: %v, want %v (%.80s)", tt.patterns, tt.value, got, tt.want, verdicts[0].Why)
		}
	}
}

func TestConditionErrors(t *testing.T) {
	for _, tt := range []struct {
		attribute string
		patterns  []string
		want      string
	}{
		{"SliceThicknes", []string{"1"}, "is not a keyword"},
		{"SliceThickness", nil, "no value"},
		{"SliceThickness", []string{"<thin"}, "is not a number"},
		{"SliceThickness", []string{"1..x"}, "is not a number"},
		{"SliceThickness", []string{"x..1"}, "is not a number"},
		{"SliceThickness", []string{"3..1"}, "empty range"},
		{"SliceThickness", []string{"<NaN"}, "is not a number"},
	} {
		if _, err := rule.NewCondition(tt.attribute, tt.patterns); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("NewCondition(%q, %q) = %v, want %q", tt.attribute, tt.patterns, err, tt.want)
		}
	}
}

func TestDecide(t *testing.T) {
	rules := []rule.Rule{
		{Name: "emergency", Pipeline: "lung", Urgent: true, Conditions: []rule.Condition{condition(t, rule.CallingAE, "ER*"), condition(t, "Modality", "CT")}},
		{Name: "thin", Pipeline: "lung", Conditions: []rule.Condition{condition(t, "Modality", "CT"), condition(t, "SliceThickness", "<=2.5")}},
		{Name: "all CT", Pipeline: "archive", Conditions: []rule.Condition{condition(t, "Modality", "CT")}},
		{Name: "rest", Pipeline: "look", Fallback: true},
	}
	for _, tt := range []struct {
		name    string
		series  rule.Series
		routes  []rule.Route
		why     int // the rule whose reason is looked at
		because string
	}{
		{
			"two rules lead to one pipeline", series([]string{"CT1", "ER2"}, "Modality", "CT", "SliceThickness", "1"),
			[]rule.Route{{Pipeline: "lung", Urgent: true, Rule: "emergency"}, {Pipeline: "archive", Rule: "all CT"}},
			3, "it is a fallback, and another rule applies",
		},
		{
			"thick", series([]string{"CT1"}, "Modality", "CT", "SliceThickness", "5"),
			[]rule.Route{{Pipeline: "archive", Rule: "all CT"}},
			1, "SliceThickness is 5, not <=2.5",
		},
		{
			"fallback", series([]string{"MR1"}, "Modality", "MR"),
			[]rule.Route{{Pipeline: "look", Rule: "rest"}},
			0, "calling AE title is MR1, not ER*",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			routes, verdicts := rule.Decide(rules, tt.series)
			if !slices.Equal(routes, tt.routes) {
				t.Errorf("routes = %+v, want %+v", routes, tt.routes)
			}
			if len(verdicts) != len(rules) || verdicts[tt.why].Applies || verdicts[tt.why].Why != tt.because {
				t.Errorf("verdict %d = %+v, want %q", tt.why, verdicts[tt.why], tt.because)
			}
		})
	}
	if got := rule.Attributes(rules); !slices.Equal(got, []string{"Modality", "SliceThickness"}) {
		t.Errorf("attributes = %q", got)
	}
}
