// Package query answers what peers ask of the store: the Patient Root and Study
// Root information models of PS3.4 annex C, hierarchical, on the levels PATIENT,
// STUDY, SERIES and IMAGE.
//
// [Parse] reads the identifier of a C-FIND and says what is wrong with it,
// [Query.Find] walks the store and hands over one match after the other;
// [ParseRetrieval] and [Retrieval.Each] do the same for C-MOVE and C-GET. Nothing
// is gathered: memory does not grow with the number of matches.
//
// Matched and returned is what the store indexes, keys of the levels above the
// one asked for included. Person names match without regard to case and to accents on
// Latin and Greek letters, all else exactly; wildcards (* and ?) where PS3.4
// C.2.2.2.4 allows them; ranges of dates and times. Several values of a key are
// alternatives. Sequences are not indexed, so keys in them are not supported.
//
// Identifiers come from peers: what they may cost is bounded by their length and
// by the limits below.
package query
