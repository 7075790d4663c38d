package main

import (
	"context"
	"fmt"
	"math"

	"hilum/models/ct"
	"hilum/models/nodule"
	"hilum/plugins/api"
)

// caseFindings are the most probable findings that decide on the patient, as in
// C-NET.
const caseFindings = 5

// classifyBatch is the number of findings in one call.
const classifyBatch = 8

// classify judges the findings, the most probable first, one by one, and
// returns the probability that the patient has a malignant nodule.
func (d *detector) classify(ctx context.Context, v *ct.Volume, found []api.Finding) (*float64, error) {
	c := d.classifier
	if c == nil {
		return nil, nil
	}
	in, out := c.Input, c.Outputs
	batch := min(classifyBatch, max(1, len(found)))
	crops, diameters := newTensor(batch, 1, in.Size, in.Size, in.Size), newTensor(batch, 1)
	malignancy, texture := newTensor(batch, 1), newTensor(batch, len(out.TextureNames))
	for done := 0; done < len(found); done += batch {
		// As in detect, the last batch keeps its shape.
		now := found[done:min(done+batch, len(found))]
		for i, f := range now {
			cube, err := v.Cut(f.Center, in.SpacingMM, in.Size, float32(in.PadValueHU))
			if err != nil {
				return nil, fmt.Errorf("cut out a finding: %w", err)
			}
			window(crops.item(i), cube, in.WindowHU)
			diameters.data[i] = float32(f.DiameterMM)
		}
		if err := d.engine.classify.run(ctx, []tensor{crops, diameters}, []tensor{malignancy, texture}); err != nil {
			return nil, err
		}
		for i := range now {
			p, err := probability(malignancy.data[i])
			if err != nil {
				return nil, fmt.Errorf("%s: malignancy: %w", d.engine.classify.name, err)
			}
			now[i].Malignancy = &p
			best := 0
			for k, share := range texture.item(i) {
				q, err := probability(share)
				if err != nil {
					return nil, fmt.Errorf("%s: texture: %w", d.engine.classify.name, err)
				}
				if k == 0 || q > now[i].TextureProbability {
					best, now[i].TextureProbability = k, q
				}
			}
			now[i].Texture = out.TextureNames[best]
		}
	}
	p := leakyNoisyOr(found[:min(len(found), caseFindings)], out.Leak)
	return &p, nil
}

// leakyNoisyOr is the probability that any of the findings is malignant, or, by
// the leak, a nodule that was not found: 1 - (1 - leak)·Π(1 - pᵢ) (DSB2017).
func leakyNoisyOr(found []api.Finding, leak float64) float64 {
	none := 1 - leak
	for _, f := range found {
		none *= 1 - *f.Malignancy
	}
	return 1 - none
}

// window scales HU to 0..1.
func window(dst, hu []float32, limits [2]float64) {
	lo, hi := float32(limits[0]), float32(limits[1])
	for i, v := range hu {
		dst[i] = (min(max(v, lo), hi) - lo) / (hi - lo)
	}
}

// probability checks a number of a network that is meant to be one. What
// rounding has put beyond the ends is put back.
func probability(v float32) (float64, error) {
	const slack = 1e-3
	p := float64(v)
	if math.IsNaN(p) {
		return 0, nodule.ErrNotFinite
	}
	if p < -slack || p > 1+slack {
		return 0, fmt.Errorf("%g is no probability", p)
	}
	return min(max(p, 0), 1), nil
}
