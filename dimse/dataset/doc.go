// Package dataset reads and writes DICOM data sets (PS3.5) and Part 10 files
// (PS3.10) without trusting a byte of them.
//
// [Scan] walks a data set of any standard transfer syntax from a stream, to its
// end, and keeps only the elements that were asked for. It uses no recursion, and
// its memory grows with bytes received, never with a length that is merely
// claimed. What it cannot follow it refuses with an [Error] that names the element
// and the place, never the value: values are patient data.
//
// It tolerates what real objects contain: odd lengths, elements out of order or
// repeated (the first one counts), private elements, missing or wrong group
// lengths, sequences hidden in UN (PS3.5 6.2.2), VRs of a later standard, and
// padding after the last element. It does not decode pixels.
//
// Elements are built and written with github.com/grailbio/go-dicom. That library
// panics and trusts lengths, so it only ever sees bytes that Scan has walked, or
// elements of our own, and is called behind recover.
package dataset
