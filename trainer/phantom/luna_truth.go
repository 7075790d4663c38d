package phantom

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
)

// Folders of a data set beside subset0 to subset9.
const (
	lunaTruth = "truth"
	lunaLungs = "seg-lungs-LUNA16"
)

// Labels of LUNA16's lung segmentations.
const (
	labelLeft    = 3
	labelRight   = 4
	labelTrachea = 5
)

// LUNA16's nodules: a lognormal distribution fits their diameters, and two of
// three scans have any.
const (
	lunaLogMean, lunaLogSpread = 1.992, 0.473
	lunaSmallest, lunaLargest  = 3.3, 32.0
	lunaLeast                  = 3.0 // mm; what is smaller is excluded
	lunaPositive               = 601.0 / 888
	lunaMore                   = 0.49 // chance of one more nodule: 1.97 a positive scan
	lunaMost                   = 8
)

// unmeasured is the diameter of most of LUNA16's excluded findings.
const unmeasured = -1

// Candidates of a scan that are no nodules, in candidates.csv and those that
// candidates_V2.csv has beyond them. LUNA16 has some 620 and 850.
const (
	lunaDecoys     = 90
	lunaMoreDecoys = 30
)

// lunaScan is what is known of one scan of a data set.
type lunaScan struct {
	UID        string          `json:"series_instance_uid"`
	Subset     int             `json:"subset"`
	Nodules    []TrueNodule    `json:"nodules"`  // of annotations.csv
	Excluded   []TrueNodule    `json:"excluded"` // of annotations_excluded.csv; diameter -1: not measured
	Candidates []lunaCandidate `json:"candidates"`
}

type lunaCandidate struct {
	Center [3]float64 `json:"center_lps_mm"`
	Class  int        `json:"class"` // 1: a nodule
	Second bool       `json:"second,omitempty"`
}

// planLuna chooses the nodules of scan i, in body space. The first scan has
// some and the second none, so that a data set of two holds both sorts.
func planLuna(b *body, seed int64, i int) (lunaScan, []*nodule, error) {
	r := rng(seed, "luna nodules")
	var s lunaScan
	count := 0
	if p := r.Float64(); i == 0 || i != 1 && p < lunaPositive {
		for count = 1; count < lunaMost && r.Float64() < lunaMore; count++ {
		}
	}
	var nodules []*nodule
	for range count {
		d := math.Exp(lunaLogMean + lunaLogSpread*r.NormFloat64())
		nodules = append(nodules, newNodule(r, math.Round(min(max(d, lunaSmallest), lunaLargest)*100)/100))
	}
	for range r.IntN(4) { // too small to count
		nodules = append(nodules, newNodule(r, 1.9+r.Float64()))
	}
	if err := settleAll(b, r, nodules); err != nil {
		return s, nil, err
	}
	for _, n := range nodules {
		t := TrueNodule{Center: n.centre, DiameterMM: 2 * n.radius, Kind: n.kind, Place: n.place}
		if t.DiameterMM >= lunaLeast {
			s.Nodules = append(s.Nodules, t)
		} else {
			s.Excluded = append(s.Excluded, t)
		}
	}
	s.addDecoys(b, rng(seed, "luna candidates"))
	return s, nodules, nil
}

// addDecoys adds what a reader marked and no other did, and the candidates.
func (s *lunaScan) addDecoys(b *body, r *rand.Rand) {
	clear := func(p vec, margin float64) bool {
		for _, n := range append(s.Nodules[:len(s.Nodules):len(s.Nodules)], s.Excluded...) {
			if p.sub(n.Center).norm() < n.DiameterMM/2+margin {
				return false
			}
		}
		return true
	}
	// A fork or bend of a vessel looks most like a nodule.
	vessel := func() vec {
		for {
			t := b.vessels[r.IntN(len(b.vessels))]
			if p := t.a.add(direction(r).mul(0.5)); t.ra >= 0.7 && t.ra <= 3 && b.lung.at(p) > 0 && p[2] > b.low && p[2] < b.high && clear(p, 5) {
				return p
			}
		}
	}
	for range 2 + r.IntN(5) {
		s.Excluded = append(s.Excluded, TrueNodule{Center: vessel(), DiameterMM: unmeasured, Kind: "vessel"})
	}
	for _, n := range s.Nodules {
		for second := range 2 {
			p := vec(n.Center).add(direction(r).mul(0.3 * n.DiameterMM / 2 * r.Float64()))
			s.Candidates = append(s.Candidates, lunaCandidate{Center: p, Class: 1, Second: second == 1})
		}
	}
	for i := range lunaDecoys + lunaMoreDecoys {
		s.Candidates = append(s.Candidates, lunaCandidate{Center: vessel(), Second: i >= lunaDecoys})
	}
}

// place moves everything from body space to the patient's coordinates, which
// are others in each scan, and returns by how much.
func (s *lunaScan) place(b *body, seed int64) vec {
	r := rng(seed, "luna place")
	offset := patientOffset.add(vec{30 * (r.Float64() - 0.5), 60 * (r.Float64() - 0.5), math.Round(300 * (r.Float64() - 0.5))})
	move := func(p *[3]float64) { *p = vec(*p).add(offset) }
	for i := range s.Nodules {
		move(&s.Nodules[i].Center)
	}
	for i := range s.Excluded {
		move(&s.Excluded[i].Center)
	}
	for i := range s.Candidates {
		move(&s.Candidates[i].Center)
	}
	return offset
}

// labels writes the lungs and the trachea with its two first branches in
// LUNA16's labels.
func (b *body) labels(g grid, out []int16) {
	clear(out)
	distance, scratch := make([]float32, g.n), make([]float32, b.lung.n[0])
	for k := range g.slices {
		for j := range g.n {
			b.lung.row(distance, scratch, g.x(j), g.z(k), g)
			row := out[(k*g.n+j)*g.n:][:g.n]
			for i, d := range distance {
				switch {
				case d <= 0:
				case g.x(i) > 0:
					row[i] = labelLeft
				default:
					row[i] = labelRight
				}
			}
		}
	}
	for _, t := range b.airways {
		if t.ra+t.wall < largeVessel*2 {
			continue
		}
		reach := max(t.ra, t.rb) + t.wall
		index := func(p, first, step float64, n int) int { return min(max(int((p-first)/step), 0), n-1) }
		lo, hi := [3]int{}, [3]int{}
		for a, n := range [3]int{g.n, g.n, g.slices} {
			first, step := g.x(0), g.pixel
			if a == 2 {
				first, step = g.z(0), g.dz
			}
			lo[a] = index(min(t.a[a], t.b[a])-reach, first, step, n)
			hi[a] = index(max(t.a[a], t.b[a])+reach+step, first, step, n)
		}
		for k := lo[2]; k <= hi[2]; k++ {
			for j := lo[1]; j <= hi[1]; j++ {
				for i := lo[0]; i <= hi[0]; i++ {
					if t.depth(vec{g.x(i), g.x(j), g.z(k)}) > 0 {
						out[(k*g.n+j)*g.n+i] = labelTrachea
					}
				}
			}
		}
	}
}

func (s lunaScan) save(name string) error {
	text, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("encode the truth of a scan: %w", err)
	}
	return writeWhole(name, append(text, '\n'))
}

// readLunaScan reads the truth of a scan; fs.ErrNotExist: it is not made yet.
func readLunaScan(name string) (lunaScan, error) {
	var s lunaScan
	f, err := os.Open(name)
	if err != nil {
		return s, err
	}
	defer func() { _ = f.Close() }() // only read
	text, err := io.ReadAll(io.LimitReader(f, maxTruthBytes))
	if err != nil {
		return s, fmt.Errorf("read the truth of a scan: %w", err)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return s, fmt.Errorf("%s is damaged (remove it and the scan is made again): %w", filepath.Base(name), err)
	}
	return s, nil
}

// writeLunaTables writes LUNA16's tables and what a person should know.
func writeLunaTables(dir string, scans []lunaScan) error {
	annotations := [][]string{{"seriesuid", "coordX", "coordY", "coordZ", "diameter_mm"}}
	excluded := [][]string{annotations[0]}
	first := [][]string{{"seriesuid", "coordX", "coordY", "coordZ", "class"}}
	second := [][]string{first[0]}
	var uids [][]string
	number := func(x float64) string { return strconv.FormatFloat(math.Round(x*1e6)/1e6, 'f', -1, 64) }
	row := func(uid string, p [3]float64, last string) []string {
		return []string{uid, number(p[0]), number(p[1]), number(p[2]), last}
	}
	for _, s := range scans {
		uids = append(uids, []string{s.UID})
		for _, n := range s.Nodules {
			annotations = append(annotations, row(s.UID, n.Center, number(n.DiameterMM)))
		}
		for _, n := range s.Excluded {
			excluded = append(excluded, row(s.UID, n.Center, number(n.DiameterMM)))
		}
		for _, c := range s.Candidates {
			line := row(s.UID, c.Center, strconv.Itoa(c.Class))
			if second = append(second, line); !c.Second {
				first = append(first, line)
			}
		}
	}
	for name, rows := range map[string][][]string{
		"annotations.csv": annotations, "annotations_excluded.csv": excluded, "seriesuids.csv": uids,
		"candidates.csv": first, "candidates_V2.csv": second,
	} {
		var text bytes.Buffer
		w := csv.NewWriter(&text)
		if err := w.WriteAll(rows); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
		if err := writeWhole(filepath.Join(dir, name), text.Bytes()); err != nil {
			return err
		}
	}
	return writeWhole(filepath.Join(dir, "README.md"), []byte(lunaReadme))
}

const lunaReadme = `# A synthetic data set in the shape of LUNA16

Every scan here is computed ("hilum phantom --luna"); no patient's image is in
it. It is for tests of programs that read LUNA16. What a detector reaches on it
says nothing of what it reaches on people.

- subset0 … subset9: scans, MetaImage in Hounsfield units. Some have a
  TransformMatrix that reverses two axes; coordinates are LPS mm, as in DICOM.
- annotations.csv: nodules of 3 mm and more. annotations_excluded.csv: smaller
  ones, and vessels that count neither way (diameter -1).
- candidates.csv, candidates_V2.csv: places with class 1 (nodule) or 0.
- seg-lungs-LUNA16: 3 left lung, 4 right lung, 5 trachea.
- truth: kind and place of each nodule. phantom.json: the options, from which
  the same program makes the same files.
`
