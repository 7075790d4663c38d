package main

import (
	"fmt"
	"slices"

	"hilum/models"
)

// engine holds the networks of the plugin on one device.
type engine struct {
	device  string // that was asked for
	threads int

	detect   *session
	rescore  *session // nil: the model has no second network
	classify *session // nil: nothing judges the findings
}

// newEngine loads the networks for a device, on the best provider that works
// for each.
func newEngine(l *library, m *models.Model, c *models.Classifier, device string, threads int) (_ *engine, err error) {
	e := &engine{device: device, threads: threads}
	defer func() {
		if err != nil {
			e.close()
		}
	}()
	inputs := []string{m.Input.Name}
	if m.Input.Place != "" {
		inputs = append(inputs, m.Input.Place)
	}
	e.detect, err = newSession(l, network{
		name: fmt.Sprintf("model %s %s", m.Name, m.Version), onnx: m.Network, cpuProviders: m.CPUProviders,
		inputs: inputs, outputs: []string{m.Output.Name},
	}, device, threads)
	if err != nil {
		return nil, err
	}
	if r := m.Rescore; r != nil {
		e.rescore, err = newSession(l, network{
			name: fmt.Sprintf("the second network of model %s %s", m.Name, m.Version), onnx: m.Rescoring, cpuProviders: m.CPUProviders,
			inputs: []string{r.Input}, outputs: []string{r.Output},
		}, device, threads)
		if err != nil {
			return nil, err
		}
	}
	if c != nil {
		e.classify, err = newSession(l, network{
			name: fmt.Sprintf("model %s %s", c.Name, c.Version), onnx: c.Network, cpuProviders: c.CPUProviders,
			inputs: []string{c.Input.Crops, c.Input.Diameter}, outputs: []string{c.Outputs.Malignancy, c.Outputs.Texture},
		}, device, threads)
		if err != nil {
			return nil, err
		}
	}
	return e, nil
}

// fits tells whether the engine is the one for that device and thread count.
func (e *engine) fits(device string, threads int) bool {
	return e != nil && e.device == device && e.threads == threads
}

func (e *engine) close() {
	if e == nil {
		return
	}
	for _, s := range []*session{e.detect, e.rescore, e.classify} {
		s.close()
	}
}

// notes says why a network is not on the provider that was wanted first.
func (e *engine) notes() []string {
	var out []string
	for _, s := range []*session{e.detect, e.rescore, e.classify} {
		if s == nil {
			continue
		}
		for _, n := range s.notes {
			if !slices.Contains(out, n) {
				out = append(out, n)
			}
		}
	}
	return out
}
