package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/grailbio/go-dicom/dicomtag"
	"github.com/spf13/cobra"

	"hilum/dimse"
	"hilum/dimse/dataset"
)

// question is what `hilum find`, `get` and `move` have in common: the peer, the
// information model, the level and the keys.
type question struct {
	peer         peer
	level, model string
	keys         []string
}

func (q *question) addFlags(cmd *cobra.Command) {
	q.peer.addFlags(cmd)
	cmd.Flags().StringVar(&q.level, "level", "study", "`LEVEL`: patient, study, series or image")
	cmd.Flags().StringVar(&q.model, "model", "", "information `MODEL`: study or patient (default: study, patient for level patient)")
	cmd.Flags().StringArrayVarP(&q.keys, "key", "k", nil, "`KEY=VALUE`: keyword of the standard, such as PatientID, or gggg,eeee; may be repeated")
}

// roots are the SOP classes of an information model: find, move, get.
var roots = map[string][3]string{
	"study":   {dimse.StudyRootFind, dimse.StudyRootMove, dimse.StudyRootGet},
	"patient": {dimse.PatientRootFind, dimse.PatientRootMove, dimse.PatientRootGet},
}

// queryKeys are asked for on each level when nothing else is, and shown.
var queryKeys = map[string][]dataset.Tag{
	"patient": {dicomtag.PatientID, dicomtag.PatientName, dicomtag.PatientBirthDate, dicomtag.PatientSex},
	"study": {dicomtag.StudyInstanceUID, dicomtag.StudyDate, dicomtag.StudyTime, dicomtag.PatientID, dicomtag.PatientName,
		dicomtag.AccessionNumber, dicomtag.ModalitiesInStudy, dicomtag.StudyDescription, dicomtag.NumberOfStudyRelatedInstances},
	"series": {dicomtag.StudyInstanceUID, dicomtag.SeriesInstanceUID, dicomtag.SeriesNumber, dicomtag.Modality,
		dicomtag.SeriesDescription, dicomtag.NumberOfSeriesRelatedInstances},
	"image": {dicomtag.StudyInstanceUID, dicomtag.SeriesInstanceUID, dicomtag.SOPInstanceUID, dicomtag.InstanceNumber, dicomtag.SOPClassUID},
}

// resolve fills in what was not named, and returns the three SOP classes of the
// model.
func (q *question) resolve(g *global) ([3]string, error) {
	if queryKeys[q.level] == nil {
		return [3]string{}, usage(fmt.Errorf("--level %q is unknown: write patient, study, series or image", q.level))
	}
	if q.model == "" {
		q.model = "study"
		if q.level == "patient" {
			q.model = "patient"
		}
	}
	classes, ok := roots[q.model]
	switch {
	case !ok:
		return classes, usage(fmt.Errorf("--model %q is unknown: write study or patient", q.model))
	case q.level == "patient" && q.model == "study":
		return classes, usage(errors.New("the model study has no level patient"))
	}
	return classes, q.peer.resolve(g)
}

// identifier makes the identifier of the keys, and of those asked for beside them.
func (q *question) identifier(also []dataset.Tag) ([]*dataset.Element, []dataset.Tag, error) {
	elements := []*dataset.Element{
		dataset.MustElement(dicomtag.QueryRetrieveLevel, strings.ToUpper(q.level)),
		dataset.MustElement(dicomtag.SpecificCharacterSet, "ISO_IR 192"),
	}
	var tags []dataset.Tag
	for _, k := range q.keys {
		name, value, _ := strings.Cut(k, "=")
		info, err := findKey(name)
		if err != nil {
			return nil, nil, usage(err)
		}
		if slices.Contains(tags, info.Tag) {
			return nil, nil, usage(fmt.Errorf("the key %s is there twice: write its values with a backslash between them", name))
		}
		element, err := keyElement(info, value)
		if err != nil {
			return nil, nil, usage(err)
		}
		tags = append(tags, info.Tag)
		elements = append(elements, element)
	}
	for _, t := range also {
		if !slices.Contains(tags, t) {
			tags = append(tags, t)
			elements = append(elements, dataset.MustElement(t))
		}
	}
	return elements, tags, nil
}

// findKey finds an element by its keyword or its number.
func findKey(name string) (dicomtag.TagInfo, error) {
	group, element, numbers := strings.Cut(name, ",")
	if numbers {
		g, err1 := strconv.ParseUint(group, 16, 16)
		e, err2 := strconv.ParseUint(element, 16, 16)
		if err1 == nil && err2 == nil {
			if info, err := dicomtag.Find(dataset.Tag{Group: uint16(g), Element: uint16(e)}); err == nil {
				return info, nil
			}
		}
	} else if info, err := dicomtag.FindByName(name); err == nil {
		return info, nil
	}
	return dicomtag.TagInfo{}, fmt.Errorf("the key %q is no element of the standard: write a keyword such as PatientID, or gggg,eeee", name)
}

func keyElement(info dicomtag.TagInfo, value string) (*dataset.Element, error) {
	switch info.VR {
	case "SQ":
		return nil, fmt.Errorf("the key %s is a sequence, which cannot be asked for here", info.Name)
	case "US", "UL", "SS", "SL":
		if value == "" {
			return dataset.NewElement(info.Tag)
		}
		n, err := strconv.Atoi(value)
		if err != nil {
			return nil, fmt.Errorf("the value of %s must be a number", info.Name)
		}
		return dataset.NewElement(info.Tag, n)
	}
	return dataset.RawElement(info.Tag, info.VR, []byte(value)), nil
}

func newFindCommand(g *global) *cobra.Command {
	q := &question{}
	var limit int
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "find -k KEY=VALUE…",
		Short: "Ask a DICOM peer what it holds (C-FIND)",
		Long: `Ask a peer by C-FIND for patients, studies, series or images. A key with a value
must match, with * and ? as wildcards and A-B as a range of dates; one without is
asked for. Levels below study need the UIDs above them. The answer holds patient
data; nothing of it goes anywhere but to standard output.

` + exitHelp,
		Example: `  hilum find -k PatientName='DOE*' -k StudyDate=20260101-
  hilum find --level series -k StudyInstanceUID=1.2.3 --to pacs:104 --called PACS`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			classes, err := q.resolve(g)
			if err != nil {
				return err
			}
			identifier, tags, err := q.identifier(queryKeys[q.level])
			if err != nil {
				return err
			}
			matches, err := q.find(cmd.Context(), classes[0], identifier, limit)
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(cmd.OutOrStdout(), matchMaps(matches))
			}
			return showMatches(cmd.OutOrStdout(), matches, tags)
		},
	}
	q.addFlags(cmd)
	cmd.Flags().IntVar(&limit, "limit", 1000, "tell the peer to stop after so many matches (0: never)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON: keyword to text")
	return cmd
}

func (q *question) find(ctx context.Context, class string, identifier []*dataset.Element, limit int) ([]dataset.Header, error) {
	conn, err := q.peer.client(dimse.QueryContext(class)).Dial(ctx, q.peer.to)
	if err != nil {
		return nil, fmt.Errorf("no association with %s at %s: %w", q.peer.called, q.peer.to, err)
	}
	defer conn.Close()
	var matches []dataset.Header
	_, err = conn.Find(ctx, class, identifier, func(h dataset.Header) bool {
		if limit == 0 || len(matches) < limit {
			matches = append(matches, h)
		}
		return limit == 0 || len(matches) < limit
	})
	if err != nil {
		return nil, q.explain(err)
	}
	return matches, conn.Release(ctx)
}

// explain adds what to do about the errors that people meet.
func (q *question) explain(err error) error {
	who := fmt.Sprintf("%s at %s", q.peer.called, q.peer.to)
	var refused *dimse.StatusError
	switch {
	case errors.Is(err, dimse.ErrNoContext):
		return fmt.Errorf("%s does not offer this service to %s: it must be told that this title may ask", who, q.peer.calling)
	case errors.As(err, &refused) && refused.Status == dimse.StatusUnknownDestination:
		return fmt.Errorf("%s does not know the destination: %w", who, err)
	}
	return fmt.Errorf("ask %s: %w", who, err)
}

func matchMaps(matches []dataset.Header) []map[string]string {
	list := make([]map[string]string, 0, len(matches))
	for _, h := range matches {
		list = append(list, h.Map())
	}
	return list
}

func showMatches(out io.Writer, matches []dataset.Header, tags []dataset.Tag) error {
	var names []string
	for _, t := range tags {
		info, _ := dicomtag.Find(t) // it was found before
		names = append(names, info.Name)
	}
	table := newTable(out, names...)
	for _, h := range matches {
		var cells []any
		for _, t := range tags {
			cells = append(cells, printable(h.String(t)))
		}
		table.row(cells...)
	}
	return table.flush()
}

// printable keeps control characters of a peer from the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7F || r >= 0x80 && r < 0xA0 {
			return '?'
		}
		return r
	}, s)
}
