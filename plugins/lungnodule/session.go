package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	ort "github.com/yalue/onnxruntime_go"

	"hilum/models"
)

// providerCUDA is the execution provider for NVIDIA GPUs.
const providerCUDA = "cuda"

// network is what a session is made of.
type network struct {
	name            string // for messages
	onnx            []byte
	inputs, outputs []string // names, in the order in which run takes them
	cpuProviders    []string
}

// session is a network loaded on one device, ready to run.
type session struct {
	network
	ort      *ort.DynamicAdvancedSession
	provider string   // models.ProviderCPU, models.ProviderOpenVINO or providerCUDA
	device   string   // what a result says: "cpu", "cuda:0"
	notes    []string // why it is not on the provider that was wanted first
}

// tensor is an input or an output of a network, float32 with the last axis
// fastest.
type tensor struct {
	shape []int64
	data  []float32
}

func newTensor(shape ...int) tensor {
	n := 1
	for _, s := range shape {
		n *= s
	}
	return tensorOf(make([]float32, n), shape...)
}

// tensorOf is a tensor in the first numbers of data.
func tensorOf(data []float32, shape ...int) tensor {
	t := tensor{shape: make([]int64, len(shape))}
	n := 1
	for i, s := range shape {
		t.shape[i] = int64(s)
		n *= s
	}
	t.data = data[:n]
	return t
}

// item returns the numbers of entry i of the first axis.
func (t tensor) item(i int) []float32 {
	n := len(t.data) / int(t.shape[0])
	return t.data[i*n:][:n]
}

// attempt is one provider to try.
type attempt struct {
	provider, device string
	library          string // the provider's library; "" when it is part of the runtime
	index            int    // of the GPU
}

// attempts lists the providers to try for a device, best first. The runtime's
// own CPU kernels always end the list.
func attempts(device string, cpuProviders []string) ([]attempt, error) {
	var list []attempt
	kind, number, numbered := strings.Cut(device, ":")
	switch kind {
	case "", "cpu":
	case providerCUDA:
		index := 0
		if numbered {
			n, err := strconv.Atoi(number)
			if err != nil || n < 0 {
				return nil, fmt.Errorf("%q is no device: name cpu, cuda or cuda:NUMBER", device)
			}
			index = n
		}
		list = append(list, attempt{provider: providerCUDA, device: fmt.Sprintf("cuda:%d", index), library: cudaLibrary, index: index})
	default:
		return nil, fmt.Errorf("%q is no device: name cpu, cuda or cuda:NUMBER", device)
	}
	for _, p := range cpuProviders {
		switch p {
		case models.ProviderOpenVINO:
			list = append(list, attempt{provider: p, device: "cpu", library: openVINOLibrary})
		case models.ProviderCPU:
			return append(list, attempt{provider: p, device: "cpu"}), nil
		}
	}
	return append(list, attempt{provider: models.ProviderCPU, device: "cpu"}), nil
}

// newSession loads the network for a device, on the best provider that works.
func newSession(l *library, n network, device string, threads int) (*session, error) {
	list, err := attempts(device, n.cpuProviders)
	if err != nil {
		return nil, err
	}
	var notes []string
	for _, a := range list {
		if a.library != "" && !l.has(a.library) {
			if a.provider == providerCUDA {
				notes = append(notes, "CUDA was asked for but this ONNX Runtime has no CUDA provider: the CPU did the work")
			}
			continue
		}
		s, err := a.open(n, threads)
		if err == nil {
			return &session{network: n, ort: s, provider: a.provider, device: a.device, notes: notes}, nil
		}
		if a.provider == models.ProviderCPU {
			return nil, fmt.Errorf("load %s into ONNX Runtime %s: %w", n.name, l.version, err)
		}
		notes = append(notes, fmt.Sprintf("ONNX Runtime could not use %s on %s: %v", a.provider, a.device, err))
	}
	return nil, errors.New("no execution provider is left to try") // the list ends with the CPU
}

func (a attempt) open(n network, threads int) (*ort.DynamicAdvancedSession, error) {
	o, err := ort.NewSessionOptions()
	if err != nil {
		return nil, err
	}
	defer func() { _ = o.Destroy() }() // only says that it was destroyed before
	err = errors.Join(
		o.SetIntraOpNumThreads(threads),
		o.SetInterOpNumThreads(1),
		// Idle threads must not spin: plugins share the machine with the listener.
		o.AddSessionConfigEntry("session.intra_op.allow_spinning", "0"),
	)
	if err != nil {
		return nil, err
	}
	switch a.provider {
	case providerCUDA:
		err = appendCUDA(o, a.index)
	case models.ProviderOpenVINO:
		err = o.AppendExecutionProviderOpenVINO(map[string]string{
			"device_type": "CPU", "num_of_threads": strconv.Itoa(threads), "precision": "FP32",
		})
	}
	if err != nil {
		return nil, err
	}
	return ort.NewDynamicAdvancedSessionWithONNXData(n.onnx, n.inputs, n.outputs, o)
}

func appendCUDA(o *ort.SessionOptions, index int) error {
	c, err := ort.NewCUDAProviderOptions()
	if err != nil {
		return err
	}
	defer func() { _ = c.Destroy() }()
	if err := c.Update(map[string]string{
		"device_id": strconv.Itoa(index),
		// Grow by what is needed, not in powers of two: the GPU is shared.
		"arena_extend_strategy": "kSameAsRequested",
	}); err != nil {
		return err
	}
	return o.AppendExecutionProviderCUDA(c)
}

func (s *session) close() {
	if s != nil && s.ort != nil {
		_ = s.ort.Destroy() // only says that it was destroyed before
		s.ort = nil
	}
}

// run puts the inputs through the network into the outputs, which have the
// network's order. It ends soon after ctx does.
func (s *session) run(ctx context.Context, inputs, outputs []tensor) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	in, err := values(inputs)
	defer destroy(in)
	if err != nil {
		return fmt.Errorf("make the input of %s: %w", s.name, err)
	}
	out, err := values(outputs)
	defer destroy(out)
	if err != nil {
		return fmt.Errorf("make the output of %s: %w", s.name, err)
	}
	opts, err := ort.NewRunOptions()
	if err != nil {
		return fmt.Errorf("run %s: %w", s.name, err)
	}
	defer func() { _ = opts.Destroy() }()
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = opts.Terminate() // it fails only for options that are gone; they wait for ended
		close(ended)
	})
	err = s.ort.RunWithOptions(in, out, opts)
	if !stop() {
		<-ended
		return ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("run %s on %s: %w", s.name, s.device, err)
	}
	return nil
}

func values(tensors []tensor) ([]ort.Value, error) {
	var out []ort.Value
	for _, t := range tensors {
		v, err := ort.NewTensor(t.shape, t.data)
		if err != nil {
			return out, err
		}
		out = append(out, v)
	}
	return out, nil
}

func destroy(values []ort.Value) {
	for _, v := range values {
		_ = v.Destroy() // only says that it was destroyed before
	}
}
