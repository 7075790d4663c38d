package report

import (
	"fmt"
	"math"
	"strings"

	"hilum/dimse/dataset"
	"hilum/plugins/api"

	"github.com/grailbio/go-dicom/dicomtag"
)

// measurementReport is the content tree: PS3.16 TID 1500.
func measurementReport(c *content, in Input) item {
	children := []item{c.code(conceptMod, codeLanguage, codeEnglish)} // TID 1204
	children = append(children, observer(c, in)...)
	children = append(children,
		c.code(conceptMod, codeProcedure, codeChestCT),
		imageLibrary(c, in),
	)
	var groups []item
	for i, finding := range in.Result.Findings {
		groups = append(groups, measurementGroup(c, in, finding, i+1))
	}
	if len(groups) > 0 {
		children = append(children, c.container(contains, codeMeasurements, "", groups...))
	}
	if evaluations := evaluations(c, in); len(evaluations) > 0 {
		children = append(children, c.container(contains, codeEvaluations, "", evaluations...))
	}
	return c.container("", codeReport, "1500", children...)
}

// observer says that a device made the observations: TID 1001, 1002, 1004.
func observer(c *content, in Input) []item {
	return []item{
		c.code(obsContext, codeObserverType, codeDevice),
		c.uid(obsContext, codeDeviceUID, deviceUID(in)),
		c.text(obsContext, codeDeviceName, nonEmpty(in.Station, Manufacturer)),
		c.text(obsContext, codeDeviceMaker, Manufacturer),
		c.text(obsContext, codeDeviceModel, "Hilum "+nonEmpty(in.Software, "of unknown version")),
	}
}

func nonEmpty(s, otherwise string) string {
	if strings.TrimSpace(s) == "" {
		return otherwise
	}
	return s
}

// imageLibrary lists the analysed images, with what they have in common: TID 1600, 1602.
func imageLibrary(c *content, in Input) item {
	h := in.Header
	var group []item
	if h.String(dicomtag.Modality) == codeCT.value {
		group = append(group, c.code(acqContext, codeModality, codeCT))
	}
	if date := h.String(dicomtag.StudyDate); len(date) == len("20060102") {
		group = append(group, c.date(acqContext, codeStudyDate, date))
	}
	if frame := h.String(dicomtag.FrameOfReferenceUID); dataset.ValidUID(frame) {
		group = append(group, c.uid(acqContext, codeFrame, frame))
	}
	add := func(name code, value float64, unit code) {
		if value > 0 {
			group = append(group, c.number(acqContext, name, value, unit))
		}
	}
	rows, _ := h.Float(dicomtag.Rows)
	columns, _ := h.Float(dicomtag.Columns)
	thickness, _ := h.Float(dicomtag.SliceThickness)
	add(codeRows, rows, unitPixels)
	add(codeColumns, columns, unitPixels)
	if spacing, err := h.Floats(dicomtag.PixelSpacing); err == nil && len(spacing) == 2 {
		add(codeColumnSpacing, spacing[1], unitMM)
		add(codeRowSpacing, spacing[0], unitMM)
	}
	add(codeSliceThickness, thickness, unitMM)
	for _, image := range in.Images {
		group = append(group, c.image(contains, image))
	}
	return c.container(contains, codeImageLibrary, "", c.container(contains, codeImageGroup, "", group...))
}

// measurementGroup is one finding: TID 1410, whose region may be a single point.
func measurementGroup(c *content, in Input, f api.Finding, number int) item {
	track := in.track(number - 1)
	children := []item{
		c.text(obsContext, codeTrackingID, track.ID),
		c.uid(obsContext, codeTrackingUID, track.UID),
	}
	children = append(children, algorithm(c, conceptMod, in.Result)...)
	children = append(children,
		c.code(contains, codeFinding, codeNodule),
		findingSite(c, f.Site),
		c.point(contains, codeRegion, f.Center, in.Header.String(dicomtag.FrameOfReferenceUID)),
	)
	add := func(name code, value float64, unit code) {
		if value > 0 { // zero: not measured
			children = append(children, c.number(contains, name, hundredths(value), unit))
		}
	}
	if f.LongAxisMM > 0 {
		add(codeLongAxis, f.LongAxisMM, unitMM)
		add(codeShortAxis, f.ShortAxisMM, unitMM)
		add(codeDiameter, f.DiameterMM, unitMM)
	} else { // the only diameter there is
		add(codeLongAxis, f.DiameterMM, unitMM)
	}
	add(codeVolume, f.VolumeMM3, unitMM3)
	children = append(children, c.number(contains, codeCertainty, hundredths(100*f.Probability), unitPercent))
	if f.Malignancy != nil {
		children = append(children, c.number(contains, codeCancer, hundredths(100**f.Malignancy), unitPercent))
	}
	if f.Texture != "" {
		children = append(children, c.text(contains, codeComment, fmt.Sprintf("Texture: %s (probability %.2f).", f.Texture, f.TextureProbability)))
	}
	if f.Label != "" && !strings.EqualFold(f.Label, codeNodule.meaning) {
		children = append(children, c.text(contains, codeComment, f.Label))
	}
	return c.container(contains, codeGroup, "1410", children...)
}

// sites says where a finding is in terms of SNOMED: CID 4030 and its lobes.
var sites = map[api.Site]struct{ site, side code }{
	api.SiteRightLung:       {codeLung, codeRight},
	api.SiteLeftLung:        {codeLung, codeLeft},
	api.SiteRightUpperLobe:  {code{"45653009", "SCT", "Upper lobe of right lung"}, codeRight},
	api.SiteRightMiddleLobe: {code{"72481006", "SCT", "Middle lobe of right lung"}, codeRight},
	api.SiteRightLowerLobe:  {code{"266005", "SCT", "Lower lobe of right lung"}, codeRight},
	api.SiteLeftUpperLobe:   {code{"44714003", "SCT", "Upper lobe of left lung"}, codeLeft},
	api.SiteLeftLowerLobe:   {code{"41224006", "SCT", "Lower lobe of left lung"}, codeLeft},
}

// findingSite is the lung, with its side and lobe where the plugin knows them.
func findingSite(c *content, site api.Site) item {
	known, ok := sites[site]
	if !ok {
		return c.code(conceptMod, codeFindingSite, codeLung)
	}
	return c.codeWith(conceptMod, codeFindingSite, known.site, c.code(conceptMod, codeLaterality, known.side))
}

// hundredths drops digits that no measurement has, and that a viewer would show.
func hundredths(f float64) float64 { return math.Round(f*100) / 100 }

// algorithm names what computed the result: TID 4019. The hash of a model is its name
// in truth.
func algorithm(c *content, relationship string, r api.Result) []item {
	out := []item{
		c.text(relationship, codeAlgorithm, r.Description.Name),
		c.text(relationship, codeVersion, r.Description.Version),
	}
	for _, m := range r.Description.Models {
		out = append(out, c.text(relationship, codeParameters, fmt.Sprintf("model=%s version=%s sha256=%s", m.Name, m.Version, m.SHA256)))
	}
	if r.Description.Runtime != "" {
		out = append(out, c.text(relationship, codeParameters, "runtime="+r.Description.Runtime))
	}
	if r.Device != "" {
		out = append(out, c.text(relationship, codeParameters, "device="+r.Device))
	}
	return out
}

// evaluations are what is said of the series as a whole: TID 1500 row 12, which holds
// codes and texts only. A series without findings has no measurement group, so this is
// where the report says that nothing was found, and by what.
func evaluations(c *content, in Input) []item {
	var out []item
	if len(in.Result.Findings) == 0 {
		out = append(out,
			c.code(contains, codeNodule, codeNotSeen),
			c.text(contains, codeFinding, fmt.Sprintf("No nodule found by %s %s in %d images.", in.Result.Description.Name, in.Result.Description.Version, len(in.Images))),
		)
		out = append(out, algorithm(c, contains, in.Result)...)
	}
	if p := in.Result.Malignancy; p != nil {
		out = append(out, c.text(contains, codeComment, fmt.Sprintf("Probability that any nodule is malignant, computed from the most probable findings: %.1f %%.", 100**p)))
	}
	for _, note := range in.Result.Notes {
		if strings.TrimSpace(note) != "" {
			out = append(out, c.text(contains, codeComment, note))
		}
	}
	return append(out, c.text(contains, codeComment, "Result of a research program that no person has checked. Not for diagnosis."))
}
