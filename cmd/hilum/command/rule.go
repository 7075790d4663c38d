package command

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"

	"github.com/grailbio/go-dicom/dicomtag"
	"github.com/spf13/cobra"

	"hilum/dimse/dataset"
	"hilum/node/config"
	"hilum/node/rule"
)

func newRuleCommand(g *global) *cobra.Command {
	return group("rule", "Try the rules that send series to pipelines", newRuleTestCommand(g))
}

// ruleTest is what the rules say of one series.
type ruleTest struct {
	SeriesInstanceUID string         `json:"series_instance_uid"`
	Files             int            `json:"files"`
	Routes            []routeView    `json:"routes"`
	Rules             []rule.Verdict `json:"rules"`
}

type routeView struct {
	Pipeline string `json:"pipeline"`
	Priority string `json:"priority"`
	Rule     string `json:"rule"`
}

func newRuleTestCommand(g *global) *cobra.Command {
	var callers []string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "test FILE|FOLDER",
		Short: "Say which rule takes a series, and why the others do not",
		Long: `Read the first DICOM file of each series and say where the rules of the
configuration send it, which rules apply, and what keeps the others from it.
Nothing is stored or sent. It prints the values that the rules look at.

` + exitHelp,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := g.load()
			if err != nil {
				return err
			}
			tests, skipped, err := testRules(cfg, args[0], callers, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			if asJSON {
				err = writeJSON(cmd.OutOrStdout(), tests)
			} else {
				err = showRuleTests(cmd.OutOrStdout(), tests)
			}
			if err == nil && skipped > 0 {
				return &exitError{exitSkipped, fmt.Errorf("%d files are not DICOM files that can be read", skipped)}
			}
			return err
		},
	}
	cmd.Flags().StringSliceVar(&callers, "calling-ae", nil, "AE `TITLES` that sent the series")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// testRules applies the rules to each series below root, in the order of its
// first file. A file that cannot be read is named on errs and counted.
func testRules(cfg config.Config, root string, callers []string, errs io.Writer) (tests []ruleTest, skipped int, err error) {
	rules, _, err := cfg.Routing()
	if err != nil {
		return nil, 0, err
	}
	tags := []dataset.Tag{dicomtag.SpecificCharacterSet, dicomtag.SeriesInstanceUID}
	for _, keyword := range rule.Attributes(rules) {
		info, err := dicomtag.FindByName(keyword)
		if err != nil {
			return nil, 0, fmt.Errorf("find the attribute %s: %w", keyword, err)
		}
		tags = append(tags, info.Tag)
	}
	at := map[string]int{}
	err = filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		f, err := dataset.ReadHeader(name, tags)
		if err != nil {
			skipped++
			fmt.Fprintf(errs, "%s: %v\n", name, err)
			return nil
		}
		uid := f.Header.String(dicomtag.SeriesInstanceUID)
		i, seen := at[uid]
		if !seen {
			i = len(tests)
			at[uid] = i
			tests = append(tests, testSeries(rules, uid, f.Header.Map(), callers))
		}
		tests[i].Files++
		return nil
	})
	if err == nil && len(tests) == 0 {
		err = errors.New("no DICOM file is there")
	}
	return tests, skipped, err
}

func testSeries(rules []rule.Rule, uid string, header map[string]string, callers []string) ruleTest {
	routes, verdicts := rule.Decide(rules, rule.Series{
		Value:      func(keyword string) string { return header[keyword] },
		CallingAEs: callers,
	})
	t := ruleTest{SeriesInstanceUID: uid, Routes: []routeView{}, Rules: verdicts}
	for _, r := range routes {
		v := routeView{Pipeline: r.Pipeline, Priority: config.PriorityRoutine, Rule: r.Rule}
		if r.Urgent {
			v.Priority = config.PriorityUrgent
		}
		t.Routes = append(t.Routes, v)
	}
	return t
}

func showRuleTests(out io.Writer, tests []ruleTest) error {
	for _, s := range tests {
		fmt.Fprintf(out, "series %s, %d files\n", s.SeriesInstanceUID, s.Files)
		for _, r := range s.Routes {
			fmt.Fprintf(out, "  goes to %s, %s, by rule %q\n", r.Pipeline, r.Priority, r.Rule)
		}
		if len(s.Routes) == 0 {
			fmt.Fprintln(out, "  goes nowhere")
		}
		t := newTable(out, "  RULE", "APPLIES", "WHY")
		for _, v := range s.Rules {
			applies := "no"
			if v.Applies {
				applies = "yes"
			}
			t.row("  "+v.Rule, applies, v.Why)
		}
		if err := t.flush(); err != nil {
			return err
		}
	}
	return nil
}
