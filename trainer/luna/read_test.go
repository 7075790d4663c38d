package luna_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hilum/trainer/luna"
)

func file(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestReadAnnotations(t *testing.T) {
	want := []luna.Nodule{
		{SeriesUID: "1.2.3", Center: [3]float64{-1.5, 2, 300}, Diameter: 5.25, Line: 2},
		{SeriesUID: "1.2.3", Center: [3]float64{10, 20, 30}, Diameter: 4, Line: 3},
	}
	for _, tt := range []struct{ name, text string }{
		{"as LUNA16 writes it", "seriesuid,coordX,coordY,coordZ,diameter_mm\n1.2.3,-1.5,2,300,5.25\n1.2.3,10,20,30,4\n"},
		{"no last line end", "seriesuid,coordX,coordY,coordZ,diameter_mm\n1.2.3,-1.5,2,300,5.25\n1.2.3,10,20,30,4"},
		{"CRLF and byte order mark", "\ufeffseriesuid,coordX,coordY,coordZ,diameter_mm\r\n1.2.3,-1.5,2,300,5.25\r\n1.2.3,10,20,30,4\r\n"},
		{"other order, other column", "diameter_mm,note,coordZ,coordY,coordX,seriesuid\n5.25,,300,2,-1.5,1.2.3\n4,x,30,20,10,1.2.3\n"},
		{"spaces, other case", "SeriesUID, coordx ,COORDY,coordZ,diameter_mm\n1.2.3 , -1.5,2,3e2,5.25\n1.2.3,10,20,30,4\n"},
		{"quoted", "\"seriesuid\",\"coordX\",\"coordY\",\"coordZ\",\"diameter_mm\"\n\"1.2.3\",\"-1.5\",2,300,5.25\n1.2.3,10,20,30,4\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := luna.ReadAnnotations(file(t, "annotations.csv", tt.text))
			if err != nil || !slices.EqualFunc(got, want, equal) {
				t.Errorf("ReadAnnotations = %+v, %v, want %+v", got, err, want)
			}
		})
	}
}

func equal(a, b luna.Nodule) bool {
	return a.SeriesUID == b.SeriesUID && a.Center == b.Center && a.Diameter == b.Diameter && a.Line == b.Line && slices.Equal(a.Votes, b.Votes)
}

// TestRefuses: every table that is wrong is an *Error with the line.
func TestRefuses(t *testing.T) {
	annotations := func(name string) error { _, err := luna.ReadAnnotations(name); return err }
	excluded := func(name string) error { _, err := luna.ReadExcluded(name); return err }
	scans := func(name string) error { _, err := luna.ReadScans(name); return err }
	candidates := func(name string) error { _, err := luna.ReadCandidates(name); return err }
	predictions := func(name string) error { _, err := luna.ReadPredictions(name); return err }
	folds := func(name string) error { _, err := luna.ReadFolds(name); return err }
	patients := func(name string) error { _, err := luna.ReadPatients(name); return err }
	const a, p = "seriesuid,coordX,coordY,coordZ,diameter_mm\n", "seriesuid,coordX,coordY,coordZ,probability\n"
	const m = "seriesuid,coordX,coordY,coordZ,diameter_mm,mal_details,len_mal_details\n"
	for _, tt := range []struct {
		name string
		read func(string) error
		text string
		line int
		want string
	}{
		{"empty file", annotations, "", 0, "empty"},
		{"missing column", annotations, "seriesuid,coordX,coordY,coordZ\n", 1, "no column diameter_mm"},
		{"no header", annotations, "1.2,1,2,3,4\n", 1, "no column seriesuid"},
		{"column twice", annotations, "seriesuid,coordX,coordX,coordZ,diameter_mm\n", 1, "twice"},
		{"short row", annotations, a + "1.2,1,2,3,4\n1.2,1,2,3\n", 3, "4 values, the header has 5"},
		{"long row", annotations, a + "1.2,1,2,3,4,5\n", 2, "6 values"},
		{"no number", annotations, a + "1.2,1,two,3,4\n", 2, `coordy is "two"`},
		{"empty number", annotations, a + "1.2,1,,3,4\n", 2, "finite number"},
		{"NaN", annotations, a + "1.2,1,NaN,3,4\n", 2, "finite number"},
		{"infinite", annotations, a + "1.2,1,2,-Inf,4\n", 2, "finite number"},
		{"beyond a float", annotations, a + "1.2,1,2,1e999,4\n", 2, "finite number"},
		{"outside the scanner", annotations, a + "1.2,1,2,1e9,4\n", 2, "outside every scanner"},
		{"no diameter", annotations, a + "1.2,1,2,3,0\n", 2, "more than 0"},
		{"diameter of an excluded finding", annotations, a + "1.2,1,2,3,-1\n", 2, "more than 0"},
		{"nodule twice", annotations, a + "1.2,1,2,3,4\n1.3,1,2,3,4\n1.2,1,2,3,9\n", 4, "in line 2 already"},
		{"no series", annotations, a + ",1,2,3,4\n", 2, "seriesuid is empty"},
		{"path as series", annotations, a + "../x,1,2,3,4\n", 2, "no seriesuid"},
		{"long series", annotations, a + strings.Repeat("1", 200) + ",1,2,3,4\n", 2, "200 characters"},
		{"stray quote", annotations, a + "1.2,1,2,3,\"4\n", 2, "no row of a CSV file"},
		{"excluded without number", excluded, a + "1.2,1,2,3,x\n", 2, "finite number"},
		{"no votes", annotations, m + "1.2,1,2,3,4,[],0\n", 2, "votes like"},
		{"vote out of range", annotations, m + "1.2,1,2,3,4,\"[3, 6]\",2\n", 2, "votes are 1 to 5"},
		{"other number of votes", annotations, m + "1.2,1,2,3,4,\"[3, 4]\",3\n", 2, "there are 2 votes"},
		{"scan twice", scans, "1.2\n1.3\n1.2\n", 3, "in line 1 already"},
		{"scan with spaces", scans, "1.2\n1 3\n", 2, "no seriesuid"},
		{"scans of another table", scans, "1.2,5\n1.3,4\n", 1, "no column seriesuid"},
		{"class 2", candidates, "seriesuid,coordX,coordY,coordZ,class\n1.2,1,2,3,2\n", 2, "0 or 1"},
		{"no probability", predictions, p + "1.2,1,2,3,\n", 2, "probability"},
		{"fold -1", folds, "seriesuid,fold\n1.2,-1\n", 2, "number from 0"},
		{"fold twice", folds, "seriesuid,fold\n1.2,1\n1.2,2\n", 3, "twice"},
		{"two patients", patients, "patient,seriesuid\na,1.2\nb,1.2\n", 3, "another patient"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			name := file(t, "table.csv", tt.text)
			err := tt.read(name)
			var e *luna.Error
			if !errors.As(err, &e) || e.File != name || e.Line != tt.line || !strings.Contains(e.Problem, tt.want) {
				t.Errorf("error = %v, want line %d and %q", err, tt.line, tt.want)
			}
		})
	}
	if _, err := luna.ReadScans(filepath.Join(t.TempDir(), "none.csv")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
}

func TestReadScans(t *testing.T) {
	for _, text := range []string{"1.2\n1.3\n", "seriesuid\n1.2\n1.3\n", "\ufeff1.2\r\n1.3\r\n", "seriesuid,patient\n1.2,a\n1.3,b\n"} {
		got, err := luna.ReadScans(file(t, "seriesuids.csv", text))
		if want := []string{"1.2", "1.3"}; err != nil || !slices.Equal(got, want) {
			t.Errorf("ReadScans(%q) = %v, %v, want %v", text, got, err, want)
		}
	}
}

// TestReadExcluded: LUNA16's own file has rows twice and diameters of -1.
func TestReadExcluded(t *testing.T) {
	got, err := luna.ReadExcluded(file(t, "e.csv", "seriesuid,coordX,coordY,coordZ,diameter_mm\n1.2,1,2,3,-1\n1.2,1,2,3,-1\n"))
	if err != nil || len(got) != 2 || got[0].Diameter != -1 {
		t.Errorf("ReadExcluded = %+v, %v", got, err)
	}
}

func TestReadVotes(t *testing.T) {
	got, err := luna.ReadAnnotations(file(t, "m.csv",
		"seriesuid,coordX,coordY,coordZ,diameter_mm,mal_details\n1.2,1,2,3,4,\"[4, 2, 4, 3]\"\n1.2,1,2,9,4,5|4\n"))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got[0].Votes, []int{4, 2, 4, 3}) || !slices.Equal(got[1].Votes, []int{5, 4}) {
		t.Errorf("votes = %v, %v", got[0].Votes, got[1].Votes)
	}
	if mean, ok := got[0].Malignancy(); mean != 3.25 || !ok {
		t.Errorf("Malignancy = %v, %v", mean, ok)
	}
}
