package query_test

import (
	"fmt"
	"testing"

	"hilum/dimse/dataset"
	"hilum/node/query"
	"hilum/store"
	"hilum/store/storetest"
)

// BenchmarkFind asks a store of 1000 studies with 100 images each.
func BenchmarkFind(b *testing.B) {
	s := storetest.MustOpenDir(b, b.TempDir(), store.Options{MinFree: -1})
	full := header{"Modality": "CT", "Rows": "512", "Columns": "512", "ImageType": `ORIGINAL\PRIMARY\AXIAL`, "SeriesDescription": "Lung [B60]", "SeriesNumber": "2",
		"SliceThickness": "1.250", "KVP": "120", "ConvolutionKernel": "B60f", "ImagePositionPatient": `-170.5\-170.5\-100.25`, "ImageOrientationPatient": `1\0\0\0\1\0`,
		"PixelSpacing": `0.665\0.665`, "StudyTime": "101500", "Manufacturer": "Acme", "ManufacturerModelName": "Scanner 1", "StudyDescription": "Thorax nativ"}
	for study := range 1000 {
		h := full.with(header{"PatientID": fmt.Sprint("P", study), "PatientName": fmt.Sprintf("DOE^N%d", study), "StudyDate": fmt.Sprintf("2024%02d%02d", 1+study%12, 1+study%28)})
		for n := range 100 {
			put(b, s, ctImage, fmt.Sprint("1.2.", study), 1, n+1, h)
		}
	}
	if err := s.Flush(b.Context()); err != nil {
		b.Fatal(err)
	}
	for _, bb := range []struct {
		name string
		keys []string
	}{
		{"all studies", []string{studyLevel, "StudyInstanceUID=", "PatientName=", "StudyDate=", "NumberOfStudyRelatedInstances="}},
		{"studies by name", []string{studyLevel, "StudyInstanceUID=", "PatientName=DOE^N7*", "StudyDate=20240101-20240630"}},
		{"studies of a patient", []string{studyLevel, "StudyInstanceUID=", "PatientID=P500"}},
		{"a study", []string{studyLevel, "StudyInstanceUID=1.2.500", "PatientName="}},
		{"images of a series", []string{imageLevel, "StudyInstanceUID=1.2.500", "SeriesInstanceUID=1.2.500.1", "SOPInstanceUID=", "InstanceNumber="}},
	} {
		b.Run(bb.name, func(b *testing.B) {
			q, err := query.Parse(query.StudyRoot, identifier(b, bb.keys...), query.Options{})
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				n = 0
				if err := q.Find(b.Context(), s, func([]*dataset.Element) error { n++; return nil }); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(n), "matches")
		})
	}
}
