package luna_test

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"hilum/trainer/luna"
)

func TestReadLabels(t *testing.T) {
	const votes = "seriesuid,coordX,coordY,coordZ,diameter_mm,mal_details\n"
	for _, tt := range []struct {
		name, text string
		scans      []string
		source     luna.Source
		cases      []luna.Case
		classes    []int
	}{
		{
			"annotations", "seriesuid,coordX,coordY,coordZ,diameter_mm\na,1,2,3,4\na,9,2,3,4\nc,1,2,3,4\n",
			[]string{"a", "b", "c"}, luna.FromAnnotations, []luna.Case{{"a", 1}, {"b", 0}, {"c", 1}}, []int{1, 1, 1},
		},
		// The source system's rule: one row of class 1 makes the case 1.
		{
			"candidates", "seriesuid,coordX,coordY,coordZ,class\na,1,2,3,0\na,9,2,3,1\na,9,2,3,0\nb,1,2,3,0\n",
			nil, luna.FromCandidates, []luna.Case{{"a", 1}, {"b", 0}}, []int{0, 1, 0, 0},
		},
		{
			"malignancy", votes + "a,1,2,3,4,\"[2, 3]\"\na,9,2,3,4,\"[3, 4]\"\nb,1,2,3,4,\"[2, 4]\"\nc,1,2,3,4,[1]\n",
			nil, luna.FromMalignancy, []luna.Case{{"a", 1}, {"b", 0}, {"c", 0}}, []int{0, 1, luna.Undecided, 0},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, err := luna.ReadLabels(file(t, "table.csv", tt.text), tt.scans, false)
			if err != nil {
				t.Fatal(err)
			}
			var classes []int
			for _, n := range l.Nodules {
				classes = append(classes, n.Class)
			}
			if l.Source != tt.source || !slices.Equal(l.Cases, tt.cases) || !slices.Equal(classes, tt.classes) {
				t.Errorf("ReadLabels = %s %v %v, want %s %v %v", l.Source, l.Cases, classes, tt.source, tt.cases, tt.classes)
			}
		})
	}
}

func TestReadLabelsOutside(t *testing.T) {
	name := file(t, "a.csv", "seriesuid,coordX,coordY,coordZ,diameter_mm\na,1,2,3,4\nz,9,2,3,4\n")
	if _, err := luna.ReadLabels(name, []string{"a"}, false); err == nil || !strings.Contains(err.Error(), ":3: the scan z is not in the list") {
		t.Errorf("a row of another scan: %v", err)
	}
	l, err := luna.ReadLabels(name, []string{"a"}, true)
	if err != nil || l.Counts().Outside != 1 || len(l.Nodules) != 1 {
		t.Errorf("left out: %+v, %v", l, err)
	}
	if _, err := luna.ReadLabels(file(t, "b.csv", "seriesuid,probability\n"), nil, false); err == nil || !strings.Contains(err.Error(), "neither") {
		t.Errorf("another table: %v", err)
	}
}

// cases makes n scans, every third positive, two to a patient.
func cases(n int) (list []luna.Case, patients map[string]string) {
	patients = map[string]string{}
	for i := range n {
		uid := fmt.Sprintf("1.2.%d", i)
		class := 0
		if i/2%3 == 0 {
			class = 1
		}
		list = append(list, luna.Case{SeriesUID: uid, Class: class})
		patients[uid] = fmt.Sprint("p", i/2)
	}
	return list, patients
}

func TestSplit(t *testing.T) {
	list, patients := cases(600) // 300 patients, 100 of them positive
	split := luna.Split(list, patients, 1)
	validation, positive := 0, 0
	for _, c := range list {
		if split[c.SeriesUID] == luna.Validation {
			validation++
			positive += c.Class
		}
	}
	if validation != 120 || positive != 40 {
		t.Errorf("%d in validation, %d of them positive, want 120 and 40", validation, positive)
	}
	for i := 0; i < len(list); i += 2 {
		if split[list[i].SeriesUID] != split[list[i+1].SeriesUID] {
			t.Fatalf("the patient of scan %d is in both parts", i)
		}
	}
	slices.Reverse(list)
	if !reflect.DeepEqual(split, luna.Split(list, patients, 1)) {
		t.Error("the order of the cases changed the split")
	}
	if reflect.DeepEqual(split, luna.Split(list, patients, 2)) {
		t.Error("another seed gave the same split")
	}
	few, _ := cases(20)
	n := 0
	for _, part := range luna.Split(few, nil, 1) {
		if part == luna.Validation {
			n++
		}
	}
	if n != 4 {
		t.Errorf("%d of 20 scans in validation, want 4", n)
	}
}

func TestSplitFolds(t *testing.T) {
	list, patients := cases(600)
	folds := luna.SplitFolds(list, patients, 1)
	if folds.Official {
		t.Error("a split of ours says it is the official one")
	}
	count := map[int]int{}
	for _, k := range folds.Of {
		count[k]++
	}
	for k := range luna.FoldCount {
		if count[k] != 60 {
			t.Errorf("fold %d has %d scans, want 60", k, count[k])
		}
	}
}

// tree makes a LUNA16 folder with the scans of each subset.
func tree(t *testing.T, subsets map[int][]string) string {
	t.Helper()
	dir := t.TempDir()
	for k, uids := range subsets {
		folder := filepath.Join(dir, fmt.Sprint("subset", k))
		if err := os.Mkdir(folder, 0o700); err != nil {
			t.Fatal(err)
		}
		for _, uid := range uids {
			for _, extension := range []string{".mhd", ".raw"} {
				if err := os.WriteFile(filepath.Join(folder, uid+extension), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	return dir
}

func TestReadTree(t *testing.T) {
	whole := map[int][]string{}
	for k := range 10 {
		whole[k] = []string{fmt.Sprint("1.2.", k), fmt.Sprint("1.3.", k)}
	}
	folds, err := luna.ReadTree(tree(t, whole), false)
	if err != nil || !folds.Official || len(folds.Of) != 20 || folds.Of["1.3.7"] != 7 || len(folds.Numbers()) != 10 {
		t.Errorf("ReadTree = %+v, %v", folds, err)
	}
	part := tree(t, map[int][]string{3: {"1.2"}})
	if _, err := luna.ReadTree(part, false); err == nil || !strings.Contains(err.Error(), "no folder subset0") {
		t.Errorf("a part of the tree: %v", err)
	}
	if folds, err := luna.ReadTree(part, true); err != nil || folds.Of["1.2"] != 3 {
		t.Errorf("a part of the tree, allowed: %+v, %v", folds, err)
	}
	if _, err := luna.ReadTree(tree(t, map[int][]string{0: {"1.2"}, 4: {"1.2"}}), true); err == nil || !strings.Contains(err.Error(), "subset0 and in subset4") {
		t.Errorf("a scan in two subsets: %v", err)
	}
	if _, err := luna.ReadTree(t.TempDir(), true); err == nil || !strings.Contains(err.Error(), "no scans") {
		t.Errorf("an empty folder: %v", err)
	}
}

// TestWrite: what is written reads back, and nothing but the file is left.
func TestWrite(t *testing.T) {
	dir := t.TempDir()
	list, _ := cases(7)
	folds := luna.SplitFolds(list, nil, 3)
	name := filepath.Join(dir, "folds.csv")
	for range 2 { // the second time over the first
		if err := luna.WriteFolds(name, list, folds); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := luna.ReadFolds(name); err != nil || !reflect.DeepEqual(got, folds) {
		t.Errorf("ReadFolds = %+v, %v, want %+v", got, err, folds)
	}
	nodules := []luna.NoduleLabel{
		{SeriesUID: "1.2", Center: [3]float64{-1.25, 2, 3}, Diameter: 4.5, Votes: []int{3, 4, 4}, Malignancy: 11.0 / 3, Class: 1},
		{SeriesUID: "1.3", Center: [3]float64{1, 2, 3}, Diameter: 4, Votes: []int{3}, Malignancy: 3, Class: luna.Undecided},
		{SeriesUID: "1.4", Center: [3]float64{1, 2, 3}, Class: 0},
	}
	if err := luna.WriteNodules(filepath.Join(dir, "nodules.csv"), nodules); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "nodules.csv"))
	if err != nil {
		t.Fatal(err)
	}
	const want = `seriesuid,coordX,coordY,coordZ,diameter_mm,class,malignancy_mean,malignancy
1.2,-1.25,2,3,4.5,1,3.66667,3|4|4
1.3,1,2,3,4,,3,3
1.4,1,2,3,,0,,
`
	if string(text) != want {
		t.Errorf("nodules.csv = %s, want %s", text, want)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
		t.Errorf("%d files are left, %v", len(entries), err)
	}
}

// TestReal: LUNA16's own tables have LUNA16's numbers.
func TestReal(t *testing.T) {
	dir := os.Getenv("HILUM_DATA")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "shared", "data")
	}
	dir = filepath.Join(dir, "luna16")
	if _, err := os.Stat(dir); err != nil {
		t.Skip("LUNA16's tables are not here: they are looked for in ../shared/data/luna16 beside the checkout, or in $HILUM_DATA/luna16")
	}
	scans, err := luna.ReadScans(filepath.Join(dir, "seriesuids.csv"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"annotations.csv", "annotations_with_malignancy.csv"} {
		l, err := luna.ReadLabels(filepath.Join(dir, name), scans, false)
		if err != nil {
			t.Fatal(err)
		}
		if differ := l.Check(); differ != nil {
			t.Errorf("%s: %q", name, differ)
		}
		t.Logf("%s: %+v", name, l.Counts())
	}
	l, err := luna.ReadLabels(filepath.Join(dir, "annotations.csv"), scans[:887], true)
	if err != nil {
		t.Fatal(err)
	}
	if differ := l.Check(); len(differ) == 0 || !strings.Contains(differ[0], "887 scans, where LUNA16 has 888") {
		t.Errorf("Check = %q", differ)
	}
}
