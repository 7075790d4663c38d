package phantom

import "math"

// background draws the body at the height z without what is made of tubes:
// air, table, skin, fat, muscle, mediastinum, abdomen, heart and lungs.
func (r *renderer) background(z float64) {
	skin, lung, heart, coarse, fine := r.rows[0], r.rows[1], r.rows[2], r.rows[3], r.rows[4]
	w := float32(r.pixel)
	for j := range r.n {
		y := r.x(j)
		r.skin.row(skin, r.line, y, z, r.grid)
		r.lung.row(lung, r.line, y, z, r.grid)
		r.heart.row(heart, r.line, y, z, r.grid)
		r.coarse.row(coarse, r.line, y, z, r.grid)
		r.fine.row(fine, r.line, y, z, r.grid)
		out := r.img[j*r.n : (j+1)*r.n]
		for i := range out {
			x := r.x(i)
			s := skin[i]
			if s < -w {
				out[i] = r.surroundings(x, y)
				continue
			}
			hu := wall(s, coarse[i], fine[i], float32(y), w)
			if lung[i] < w {
				hu = r.interior(hu, x, y, z, coarse[i], fine[i])
				hu = mixHU(hu, huHeart+6*fine[i], coverage(heart[i], w))
			}
			if lung[i] > -w {
				hu = mixHU(hu, r.parenchyma(x, y, z, coarse[i], fine[i], w), coverage(lung[i], w))
			}
			out[i] = mixHU(r.surroundings(x, y), hu, coverage(s, w))
		}
	}
}

// surroundings is the air around the body, and the two skins of the table.
func (r *renderer) surroundings(x, y float64) float32 {
	const halfWidth, halfSkin = 168.0, 1.1
	if y < 95 || math.Abs(x) > halfWidth {
		return huAir
	}
	top := 125 - 0.0011*x*x
	under := 146 - 0.0018*x*x
	d := halfSkin - min(math.Abs(y-top), math.Abs(y-under))
	if top < y && y < under {
		return mixHU(-960, huTable, coverage(float32(d), float32(r.pixel)))
	}
	return mixHU(huAir, huTable, coverage(float32(d), float32(r.pixel)))
}

// wall is the body wall at the depth s below the skin.
func wall(s, coarse, fine, y, w float32) float32 {
	const skinThickness = 1.6
	rim := 10 + 2.5*coarse + 4*min(max(-y/100, 0), 1) // fat is thickest in front
	hu := mixHU(huSkin, huFat+8*fine, coverage(s-skinThickness, w))
	muscle := huMuscle + 9*fine
	// Fat between the layers of muscle.
	for _, layer := range [2]float32{9, 17} {
		half := 0.9 + 0.9*coarse
		if half > 0 {
			muscle = mixHU(muscle, huFat, 0.85*coverage(half-abs(s-rim-layer-2*fine), w))
		}
	}
	return mixHU(hu, muscle, coverage(s-rim, w))
}

// interior draws over the wall what lies between and below the lungs.
func (r *renderer) interior(hu float32, x, y, z float64, coarse, fine float32) float32 {
	w := float32(r.pixel)
	// Mediastinal fat; towards the neck muscles take its place.
	q := math.Hypot(x/60, (y+14)/66)
	fat := float32(huPadding) + 12*fine + 110*float32(smoothstep(262, 290, z))*coverage(coarse*2, 2)
	hu = mixHU(hu, fat, coverage(float32((1-q)*60), 3*w))
	// Abdomen: liver on the right, spleen and stomach on the left.
	side := 0
	if x > 0 {
		side = 1
	}
	below := -r.aboveDiaphragm(vec{x, y, z}, side)
	if below < -2 {
		return hu
	}
	inside := 1 - math.Sqrt(x*x/(127*127)+(y-2)*(y-2)/(82*82))
	inside = min(inside*82, 52-y)
	organ := mixHU(huLiver+7*fine, huSpleen+7*fine, float32(smoothstep(5, 25, x)))
	if gap := 1.4 - abs(coarse)*3; x > 0 && gap > 0 {
		organ = mixHU(organ, huFat, coverage(gap, 2)) // fat between stomach and spleen
	}
	return mixHU(hu, organ, coverage(float32(min(inside, below)), w))
}

// parenchyma is the lung between its vessels: denser towards the back, where
// the blood sinks to, with a hair-thin fissure.
func (r *renderer) parenchyma(x, y, z float64, coarse, fine, w float32) float32 {
	hu := huLung + 14*coarse + 12*fine + float32(26*y/80)
	d := float32(math.Abs(r.fissureDistance(x, y, z)))
	if d < 2*w+fissureHalf {
		thin := min(2*fissureHalf/w, 1)
		hu = mixHU(hu, huFissure, thin*coverage(max(fissureHalf, w/2)-d, w))
	}
	return hu
}

// coverage is the part of a pixel of width w that lies inside a surface at the
// distance depth; positive is inside.
func coverage(depth, w float32) float32 { return min(max(depth/w+0.5, 0), 1) }

// mixHU is a, covered by b to the part f.
func mixHU(a, b, f float32) float32 { return a + f*(b-a) }

func abs(x float32) float32 { return max(x, -x) }
