package insert

import (
	"math"
	"slices"

	"hilum/models/ct"
)

// Bounds of what is believed of a scanner, and what stands in when a scan does
// not show it (a crop, a phantom without noise).
const (
	leastSpread, mostSpread, usualSpread = 0.3, 1.1, 0.6 // mm
	mostNoise, usualNoise                = 120.0, 15.0   // HU
	leastPixels                          = 0.4           // of a pixel: no scanner is sharper than its pixels
	usualGrain                           = 0.4
	enoughSamples                        = 200
	sampledSlices                        = 24
)

// measure reads point spread and noise off the scan.
func measure(v *ct.Volume) Scanner {
	out := Scanner{PointSpreadMM: usualSpread, NoiseHU: usualNoise}
	var edges, noise, products []float64
	step := max(1, v.Size[2]/sampledSlices)
	for k := step / 2; k < v.Size[2]; k += step {
		edges = appendEdges(edges, v, k)
		noise, products = appendNoise(noise, products, v, k)
	}
	if len(noise) < enoughSamples {
		// Soft tissue was painted over, or there is none: neither can an edge
		// be believed.
		out.NoiseGrain = usualGrain
		return out
	}
	if len(edges) >= enoughSamples {
		// Most edges are not quite across the row, which widens them: the
		// sharper ones tell the scanner.
		slices.Sort(edges)
		out.PointSpreadMM = min(max(edges[len(edges)/4]*v.Spacing[0], leastSpread, leastPixels*v.Spacing[0]), mostSpread)
	}
	// Patches that are not of one tissue have more spread: the lower third
	// is noise alone.
	order := make([]int, len(noise))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return compare(noise[a], noise[b]) })
	third := order[len(order)/6 : len(order)/3]
	var sum, product float64
	for _, i := range third {
		sum += noise[i]
		product += products[i]
	}
	out.NoiseHU = min(math.Sqrt(sum/float64(len(third))), mostNoise)
	if sum > 0 {
		out.NoiseGrain = min(max(product/sum, 0), 0.9)
	}
	return out
}

func compare(a, b float64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// appendEdges adds the widths (standard deviation, pixels) of the steps from
// the air to the skin in the rows of slice k.
func appendEdges(edges []float64, v *ct.Volume, k int) []float64 {
	const air, tissue, run = -850, -200, 8
	n := v.Size[0]
	for j := 2; j < v.Size[1]-2; j++ {
		row := v.HU[v.Index(0, j, k):][:n]
		for _, reversed := range []bool{false, true} {
			at := func(i int) float64 {
				if reversed {
					i = n - 1 - i
				}
				return float64(max(row[i], -1024))
			}
			i := 0
			for i < n && at(i) < tissue {
				i++
			}
			// i: the first tissue of the row. A whole step from air lies there.
			if i < run || i+4 >= n || at(i-run+2) > air {
				continue
			}
			low := (at(i-run) + at(i-run+1) + at(i-run+2)) / 3
			high, steepest := at(i), 0.0
			for m := i - 4; m < i+4; m++ {
				steepest = max(steepest, at(m+1)-at(m))
				high = max(high, at(m+1))
			}
			// Only edges across the row: two rows on, the step is at the same place.
			next := v.HU[v.Index(0, j+2, k):][:n]
			x := i
			if reversed {
				x = n - 1 - i
			}
			before := x - 1
			if reversed {
				before = x + 1
			}
			if next[x] < tissue-200 || next[before] > tissue+200 || steepest <= 0 || high-low < 600 {
				continue
			}
			sigma := (high - low) / (steepest * math.Sqrt(2*math.Pi))
			// A difference of neighbours is the mean slope over a pixel.
			if square := sigma*sigma - 1.0/12; square > 0 {
				edges = append(edges, math.Sqrt(square))
			} else {
				edges = append(edges, 0)
			}
		}
	}
	return edges
}

// appendNoise adds the variance of patches of soft tissue, and the covariance of
// neighbours in them.
func appendNoise(variance, covariance []float64, v *ct.Volume, k int) (_, _ []float64) {
	const size = 7
	const low, high = -20, 110 // HU of muscle, blood, liver on average
	const flat = size * size   // less than 1 HU of noise
	for j := 0; j+size <= v.Size[1]; j += size {
		for i := 0; i+size <= v.Size[0]; i += size {
			var mean, smallest, largest float64
			smallest, largest = math.Inf(1), math.Inf(-1)
			var patch [size][size]float64
			for y := range size {
				row := v.HU[v.Index(i, j+y, k):][:size]
				for x, hu := range row {
					patch[y][x] = float64(hu)
					mean += float64(hu) / (size * size)
					smallest, largest = min(smallest, float64(hu)), max(largest, float64(hu))
				}
			}
			if mean < low || mean > high || largest-smallest > 8*mostNoise {
				continue
			}
			// A slope over the patch is tissue, not noise.
			detrend(&patch, mean)
			var square, product float64
			for y := range size {
				for x := range size {
					square += patch[y][x] * patch[y][x]
					if x > 0 {
						product += patch[y][x] * patch[y][x-1]
					}
				}
			}
			if square < flat {
				continue // painted, not scanned
			}
			variance = append(variance, square/(size*size-3))
			covariance = append(covariance, product/(size*(size-1)))
		}
	}
	return variance, covariance
}

// detrend takes the plane of least squares off a square patch.
func detrend(p *[7][7]float64, mean float64) {
	const half = 3
	var gx, gy, sum float64
	for y := range p {
		for x := range p[y] {
			dx, dy := float64(x-half), float64(y-half)
			gx += dx * p[y][x]
			gy += dy * p[y][x]
			sum += dx * dx
		}
	}
	gx, gy = gx/sum, gy/sum
	for y := range p {
		for x := range p[y] {
			p[y][x] -= mean + gx*float64(x-half) + gy*float64(y-half)
		}
	}
}
