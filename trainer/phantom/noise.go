package phantom

import "math"

// mix is splitmix64: a good hash of a counter, so that every voxel has its
// noise whatever the order in which slices are made.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// gauss returns a value that is nearly normal with mean 0 and standard
// deviation 1: the sum of four uniform numbers out of one hash.
func gauss(x uint64) float32 {
	h := mix(x)
	sum := int32(h&0xffff) + int32(h>>16&0xffff) + int32(h>>32&0xffff) + int32(h>>48)
	return float32(sum-2*0xffff) * (1.7320508 / 65536)
}

// noiseField returns smooth random texture with details of about size mm.
func noiseField(seed uint64, size float64) *field {
	lattice := func(x, y, z int) float64 {
		return float64(gauss(seed ^ mix(uint64(uint32(x))|uint64(uint32(y))<<21|uint64(uint32(z))<<42)))
	}
	return newField(func(p vec) float64 {
		var i [3]int
		var f [3]float64
		for a := range 3 {
			q := p[a]/size + 500
			i[a] = int(q)
			f[a] = smoothstep(0, 1, q-float64(i[a]))
		}
		sum, weights := 0.0, 0.0
		for corner := range 8 {
			w := 1.0
			for a := range 3 {
				if corner>>a&1 == 1 {
					w *= f[a]
				} else {
					w *= 1 - f[a]
				}
			}
			sum += w * lattice(i[0]+corner&1, i[1]+corner>>1&1, i[2]+corner>>2)
			weights += w * w
		}
		return sum / math.Sqrt(weights)
	})
}

// blur smooths an n×n image in place with a Gaussian of sigma pixels. Values
// beyond the edge count as those at the edge.
func blur(img, scratch []float32, n int, sigma float64) {
	kernel := gaussian(sigma)
	reach := len(kernel) - 1
	if reach == 0 {
		return
	}
	for y := range n {
		row, out := img[y*n:(y+1)*n], scratch[y*n:(y+1)*n]
		for x := range n {
			sum := kernel[0] * row[x]
			if x >= reach && x < n-reach {
				for k := 1; k <= reach; k++ {
					sum += kernel[k] * (row[x-k] + row[x+k])
				}
			} else {
				for k := 1; k <= reach; k++ {
					sum += kernel[k] * (row[max(x-k, 0)] + row[min(x+k, n-1)])
				}
			}
			out[x] = sum
		}
	}
	for y := range n {
		out := img[y*n : (y+1)*n]
		centre := scratch[y*n : (y+1)*n]
		for x := range n {
			out[x] = kernel[0] * centre[x]
		}
		for k := 1; k <= reach; k++ {
			up, low := max(y-k, 0), min(y+k, n-1)
			above, below := scratch[up*n:up*n+n], scratch[low*n:low*n+n]
			w := kernel[k]
			for x := range n {
				out[x] += w * (above[x] + below[x])
			}
		}
	}
}

// gaussian returns the right half of a normalised kernel.
func gaussian(sigma float64) []float32 {
	if sigma < 0.2 {
		return []float32{1} // the neighbours' weight would be below 1e-5
	}
	reach := int(math.Ceil(2.7 * sigma))
	kernel := make([]float32, reach+1)
	sum := 0.0
	for k := range kernel {
		w := math.Exp(-float64(k*k) / (2 * sigma * sigma))
		kernel[k] = float32(w)
		if sum += w; k > 0 {
			sum += w
		}
	}
	for k := range kernel {
		kernel[k] /= float32(sum)
	}
	return kernel
}

// blurGain is the factor by which blurring lowers the standard deviation of
// white noise.
func blurGain(sigma float64) float64 {
	kernel := gaussian(sigma)
	sum := float64(kernel[0]) * float64(kernel[0])
	for _, w := range kernel[1:] {
		sum += 2 * float64(w) * float64(w)
	}
	return sum // the square root once for each of the two directions
}
