package api

import (
	"math"

	"hilum/plugins/api/pluginpb"
)

// The functions below translate between the Go types and the messages. They
// check nothing: Validate does, on the Go types.

func descriptionToWire(d Description) *pluginpb.Description {
	out := &pluginpb.Description{
		Name: d.Name, Version: d.Version, Kind: d.Kind,
		Modalities: d.Modalities, Devices: d.Devices, Runtime: d.Runtime,
	}
	for _, m := range d.Models {
		out.Models = append(out.Models, &pluginpb.Model{Name: m.Name, Version: m.Version, Sha256: m.SHA256})
	}
	return out
}

func descriptionFromWire(in *pluginpb.Description) Description {
	d := Description{
		Name: in.GetName(), Version: in.GetVersion(), Kind: in.GetKind(),
		Modalities: in.GetModalities(), Devices: in.GetDevices(), Runtime: in.GetRuntime(),
	}
	for _, m := range in.GetModels() {
		d.Models = append(d.Models, Model{Name: m.GetName(), Version: m.GetVersion(), SHA256: m.GetSha256()})
	}
	return d
}

func jobToWire(j Job) *pluginpb.Job {
	out := &pluginpb.Job{
		Id: j.ID, Folder: j.Folder, Series: j.Series, Device: j.Device,
		Threads: clampInt32(j.Threads), Scratch: j.Scratch,
	}
	for _, f := range j.Findings {
		out.Findings = append(out.Findings, findingToWire(f))
	}
	return out
}

func jobFromWire(in *pluginpb.Job) Job {
	j := Job{
		ID: in.GetId(), Folder: in.GetFolder(), Series: in.GetSeries(), Device: in.GetDevice(),
		Threads: int(in.GetThreads()), Scratch: in.GetScratch(),
	}
	for _, f := range in.GetFindings() {
		j.Findings = append(j.Findings, findingFromWire(f))
	}
	return j
}

func findingToWire(f Finding) *pluginpb.Finding {
	out := &pluginpb.Finding{
		Id: f.ID, Center: vectorToWire(f.Center), Size: vectorToWire(f.Size),
		DiameterMm: f.DiameterMM, Probability: f.Probability, Malignancy: f.Malignancy,
		Texture: f.Texture, TextureProbability: f.TextureProbability, Label: f.Label, Mask: maskToWire(f.Mask),
		Site: string(f.Site), LongAxisMm: f.LongAxisMM, ShortAxisMm: f.ShortAxisMM, VolumeMm3: f.VolumeMM3,
	}
	for _, v := range f.Views {
		out.Views = append(out.Views, &pluginpb.View{
			Columns: clampUint32(v.Columns), Rows: clampUint32(v.Rows), Spacing: v.Spacing,
			Origin: vectorToWire(v.Origin), ColumnAxis: vectorToWire(v.ColumnAxis), RowAxis: vectorToWire(v.RowAxis),
			Pixels: v.Pixels,
		})
	}
	return out
}

func findingFromWire(in *pluginpb.Finding) Finding {
	out := Finding{
		ID: in.GetId(), Center: vectorFromWire(in.GetCenter()), Size: vectorFromWire(in.GetSize()),
		DiameterMM: in.GetDiameterMm(), Probability: in.GetProbability(), Malignancy: in.Malignancy,
		Texture: in.GetTexture(), TextureProbability: in.GetTextureProbability(), Label: in.GetLabel(), Mask: maskFromWire(in.GetMask()),
		Site: Site(in.GetSite()), LongAxisMM: in.GetLongAxisMm(), ShortAxisMM: in.GetShortAxisMm(), VolumeMM3: in.GetVolumeMm3(),
	}
	views := in.GetViews()
	for _, v := range views[:min(len(views), MaxViews+1)] { // one too many, for Validate to refuse
		out.Views = append(out.Views, View{
			Columns: int(v.GetColumns()), Rows: int(v.GetRows()), Spacing: v.GetSpacing(),
			Origin: vectorFromWire(v.GetOrigin()), ColumnAxis: vectorFromWire(v.GetColumnAxis()), RowAxis: vectorFromWire(v.GetRowAxis()),
			Pixels: v.GetPixels(),
		})
	}
	return out
}

func maskToWire(m *Mask) *pluginpb.Mask {
	if m == nil {
		return nil
	}
	return &pluginpb.Mask{
		Columns: clampUint32(m.Size[0]), Rows: clampUint32(m.Size[1]), Slices: clampUint32(m.Size[2]),
		Origin: vectorToWire(m.Origin), Spacing: vectorToWire(m.Spacing),
		ColumnAxis: vectorToWire(m.Axes[0]), RowAxis: vectorToWire(m.Axes[1]), SliceAxis: vectorToWire(m.Axes[2]),
		Bits: m.Bits,
	}
}

func maskFromWire(in *pluginpb.Mask) *Mask {
	if in == nil {
		return nil
	}
	return &Mask{
		Size:   [3]int{int(in.GetColumns()), int(in.GetRows()), int(in.GetSlices())},
		Origin: vectorFromWire(in.GetOrigin()), Spacing: vectorFromWire(in.GetSpacing()),
		Axes: [3][3]float64{vectorFromWire(in.GetColumnAxis()), vectorFromWire(in.GetRowAxis()), vectorFromWire(in.GetSliceAxis())},
		Bits: in.GetBits(),
	}
}

func vectorToWire(v [3]float64) *pluginpb.Vector { return &pluginpb.Vector{X: v[0], Y: v[1], Z: v[2]} }

func vectorFromWire(in *pluginpb.Vector) [3]float64 {
	return [3]float64{in.GetX(), in.GetY(), in.GetZ()}
}

// The clamps keep a value that does not fit outside every accepted range, where
// a plain conversion could wrap it into one.

func clampInt32(n int) int32 { return int32(min(max(n, math.MinInt32), math.MaxInt32)) }

func clampUint32(n int) uint32 { return uint32(min(max(n, 0), math.MaxUint32)) }
