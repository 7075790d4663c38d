package report

import "hilum/trainer/froc"

// groupTable is what the template "groups" shows.
type groupTable struct {
	What   string // the name of the first column
	Label  string
	Folds  bool // with the columns that differ from fold to fold
	Groups []froc.Group
	Rates  [7]float64
}

// SizeTable is the table by size.
func (v view) SizeTable() groupTable {
	return groupTable{What: "Diameter", Label: "By size", Groups: v.R.BySize, Rates: v.Rates}
}

// FoldTable is the table by fold.
func (v view) FoldTable() groupTable {
	return groupTable{What: "Fold", Label: "By fold", Folds: true, Groups: v.R.ByFold, Rates: v.Rates}
}

// pictureOf is what the template "picture" shows.
type pictureOf struct {
	Card          card
	Kind          string
	Width, Height int
}

// Picture is a card's picture; kind is the class of its ring.
func (v view) Picture(c card, kind string) pictureOf {
	return pictureOf{c, kind, pictureWidth, pictureHeight}
}

// Shown tells whether a card of the list has a picture.
func (v view) Shown(cards []card) bool {
	for _, c := range cards {
		if c.Picture != "" {
			return true
		}
	}
	return false
}

// Listed tells whether a card of the list has none.
func (v view) Listed(cards []card) bool {
	for _, c := range cards {
		if c.Picture == "" {
			return true
		}
	}
	return false
}
