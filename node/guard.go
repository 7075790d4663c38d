package node

import (
	"strings"

	"hilum/node/report"
	"hilum/store"
)

// resultClasses are the SOP classes, or the beginnings of their UIDs, of what is made of
// images and not by a scanner (PS3.4 B.5). A PACS that forwards all that it gets sends
// them too, and many programs write their secondary captures with the modality of the
// images that they were made of, CT.
var resultClasses = []string{
	"1.2.840.10008.5.1.4.1.1.7",   // Secondary Capture, and its multi-frame kinds
	"1.2.840.10008.5.1.4.1.1.11",  // presentation states
	"1.2.840.10008.5.1.4.1.1.30",  // parametric map
	"1.2.840.10008.5.1.4.1.1.66",  // raw data, registration, fiducials, segmentation
	"1.2.840.10008.5.1.4.1.1.67",  // real world value mapping
	"1.2.840.10008.5.1.4.1.1.68",  // surface scan
	"1.2.840.10008.5.1.4.1.1.88",  // structured reports, key objects
	"1.2.840.10008.5.1.4.1.1.104", // encapsulated documents
	"1.2.840.10008.5.1.4.1.1.481", // radiotherapy
}

// resultOf says why a series is a result and no examination, "" when it may be one. What
// this node made, and what any other program made of images, is never analysed: a result
// that is taken for an image makes results without end.
func resultOf(s store.Series) string {
	if s.State == store.SeriesGenerated || s.Header["Manufacturer"] == report.Manufacturer {
		return "it is a result of Hilum"
	}
	class := s.Header["SOPClassUID"]
	for _, c := range resultClasses {
		if class == c || strings.HasPrefix(class, c+".") {
			return "it holds results and no images of a scanner"
		}
	}
	return ""
}
