package main

import (
	"context"
	"fmt"
	"math"

	"hilum/models"
	"hilum/models/ct"
	"hilum/models/nodule"
	"hilum/plugins/api"
)

// detect runs the network over the scan and returns the candidates above the
// threshold in voxels of the prepared scan.
func (d *detector) detect(ctx context.Context, p *ct.Prepared, progress api.Progress) ([]nodule.Candidate, tiling, error) {
	in, out := d.model.Input, d.model.Output
	layout := nodule.Layout{Anchors: out.Anchors, Stride: out.Stride}
	limits := nodule.Limits{Threshold: out.Threshold, MaxDiameter: maxDiameterMM / in.Prepare.SpacingMM[0]}
	if r := d.model.Rescore; r != nil {
		limits.Threshold = r.Threshold
	}
	t := plan(p, in, reachVoxels(in))
	table := newScaling(in.Scale)

	// Tiles of one shape go through the network in batches, the others one by one.
	batch := 1
	if in.Step == 0 {
		batch = in.Batch
	}
	inputs := make([]float32, batch*t.largest().voxels())
	cells := len(inputs) / (out.Stride * out.Stride * out.Stride)
	outputs := make([]float32, cells*len(out.Anchors)*nodule.Channels)
	var places []float32
	if in.Place != "" {
		places = make([]float32, cells*3)
	}
	size := [3]int{p.Size[2], p.Size[1], p.Size[0]}

	var all []nodule.Candidate
	for done := 0; done < len(t.tiles); done += batch {
		progress(progressDetect+(progressJudge-progressDetect)*float64(done)/float64(len(t.tiles)),
			fmt.Sprintf("searching tile %d of %d", done+1, len(t.tiles)))
		// The last batch keeps its shape; what is left of the one before in its
		// unused places is computed and not looked at.
		tiles := t.tiles[done:min(done+batch, len(t.tiles))]
		patch, s := tiles[0].patch, out.Stride
		input := tensorOf(inputs, batch, 1, patch[0], patch[1], patch[2])
		output := tensorOf(outputs, batch, patch[0]/s, patch[1]/s, patch[2]/s, len(out.Anchors), nodule.Channels)
		given := []tensor{input}
		if places != nil {
			given = append(given, tensorOf(places, batch, 3, patch[0]/s, patch[1]/s, patch[2]/s))
		}
		for i, k := range tiles {
			fill(input.item(i), p, k.origin(t.margin), k.patch, table, in.Prepare.PadValue)
			if places != nil {
				nodule.Place(given[1].item(i), k.origin(t.margin), k.patch, size, s)
			}
		}
		if err := d.engine.detect.run(ctx, given, []tensor{output}); err != nil {
			return nil, t, err
		}
		for i, k := range tiles {
			found, err := nodule.Decode(output.item(i), k.patch, layout, limits)
			if err != nil {
				return nil, t, fmt.Errorf("model %s: %w", d.model.Name, err)
			}
			o := k.origin(t.margin)
			for _, c := range found {
				if k.contains(t.margin, [3]float64{c.Z, c.Y, c.X}, float64(s)) {
					c.Z, c.Y, c.X = c.Z+float64(o[0]), c.Y+float64(o[1]), c.X+float64(o[2])
					all = append(all, c)
				}
			}
		}
	}
	return all, t, nil
}

// rescore judges the candidates, at most output.top_k, by the model's second
// network and returns those above the threshold, the most probable first.
func (d *detector) rescore(ctx context.Context, all []nodule.Candidate, p *ct.Prepared) ([]nodule.Candidate, error) {
	r := d.model.Rescore
	if r == nil || len(all) == 0 {
		return all, nil
	}
	table := newScaling(d.model.Input.Scale)
	input, output := newTensor(r.Batch, 1, r.Size, r.Size, r.Size), newTensor(r.Batch, 1)
	var kept []nodule.Candidate
	for done := 0; done < len(all); done += r.Batch {
		batch := all[done:min(done+r.Batch, len(all))]
		for i, c := range batch {
			fill(input.item(i), p, cropStart(c, r.Size), [3]int{r.Size, r.Size, r.Size}, table, d.model.Input.Prepare.PadValue)
		}
		if err := d.engine.rescore.run(ctx, []tensor{input}, []tensor{output}); err != nil {
			return nil, err
		}
		for i, c := range batch {
			logit := float64(output.data[i])
			if math.IsNaN(logit) {
				return nil, fmt.Errorf("%s: %w", d.engine.rescore.name, nodule.ErrNotFinite)
			}
			c.Probability = (1-r.Weight)*c.Probability + r.Weight/(1+math.Exp(-logit))
			if c.Probability >= d.model.Output.Threshold {
				kept = append(kept, c)
			}
		}
	}
	nodule.Sort(kept)
	return kept, nil
}

// cropStart is the first voxel, z, y, x, of the crop around a candidate.
func cropStart(c nodule.Candidate, size int) [3]int {
	at := func(v float64) int { return int(math.Floor(v - float64(size-1)/2 + 0.5)) }
	return [3]int{at(c.Z), at(c.Y), at(c.X)}
}

// reachVoxels is how far outside the lungs the centre of a finding may lie.
func reachVoxels(in models.Input) int {
	s := in.Prepare.SpacingMM
	return int(in.ReachMM / min(s[0], s[1], s[2]))
}
