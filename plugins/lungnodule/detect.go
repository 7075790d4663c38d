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
// threshold in voxels of the prepared scan, and the tiles that it looked at.
func (d *detector) detect(ctx context.Context, p *ct.Prepared, progress api.Progress) ([]nodule.Candidate, tiling, error) {
	in, out := d.model.Input, d.model.Output
	all := newAnswers(p, out)
	size := [3]int{p.Size[2], p.Size[1], p.Size[0]}
	t := plan(in, size, func(cell [3]int) cells { return lungCells(p.Mask, cell, reachVoxels(in)) })
	share, again := 1.0, d.model.Again // share: of the first look in the progress
	if again != nil {
		share = 0.7
	}
	report := func(what string, begin, length float64) func(float64) {
		return func(done float64) {
			progress(progressDetect+(progressJudge-progressDetect)*(begin+length*done), what)
		}
	}
	if err := d.search(ctx, p, t, [3]bool{}, all.put, report("searching the lungs", 0, share)); err != nil {
		return nil, t, err
	}
	if again != nil {
		seen := all.lookAgain(nodule.Logit(again.From))
		spots := plan(in, size, func(cell [3]int) cells { return all.above(seen.least, cell) })
		length := (1 - share) / float64(len(again.Mirrors))
		for i, m := range again.Mirrors {
			flipped := m.Axes()
			add := func(k tile, output []float32) { seen.add(k, flipped, output) }
			if err := d.search(ctx, p, spots, flipped, add, report("looking again", share+float64(i)*length, length)); err != nil {
				return nil, t, err
			}
			seen.count++
			t.tiles = append(t.tiles, spots.tiles...)
		}
		seen.mean()
	}
	limits := nodule.Limits{Threshold: out.Threshold, MaxDiameter: maxDiameterMM / in.Prepare.SpacingMM[0]}
	if r := d.model.Rescore; r != nil {
		limits.Threshold = r.Threshold
	}
	found, err := nodule.Decode(all.data, all.size(), nodule.Layout{Anchors: out.Anchors, Stride: out.Stride}, limits)
	if err != nil {
		return nil, t, fmt.Errorf("model %s: %w", d.model.Name, err)
	}
	return found, t, nil
}

// search puts the tiles through the network, some of whose axes, z, y, x, may run
// the other way, and hands on what it says of each.
func (d *detector) search(ctx context.Context, p *ct.Prepared, t tiling, flipped [3]bool,
	take func(k tile, output []float32), progress func(done float64),
) error {
	in, out := d.model.Input, d.model.Output
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
	for done := 0; done < len(t.tiles); done += batch {
		progress(float64(done) / float64(len(t.tiles)))
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
			fill(input.item(i), p, k.origin, k.patch, table, in.Prepare.PadValue)
			flip(input.item(i), k.patch, flipped)
			if places != nil {
				nodule.Place(given[1].item(i), k.origin, k.patch, size, s)
			}
		}
		if err := d.engine.detect.run(ctx, given, []tensor{output}); err != nil {
			return err
		}
		for i, k := range tiles {
			take(k, output.item(i))
		}
	}
	return nil
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
