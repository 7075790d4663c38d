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

// session is a network loaded on one device, ready to run.
type session struct {
	ort      *ort.DynamicAdvancedSession
	provider string // models.ProviderCPU, models.ProviderOpenVINO or providerCUDA
	device   string // what a result says: "cpu", "cuda:0"
	asked    string // the device that was asked for
	threads  int
	notes    []string // why it is not on the provider that was wanted first
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
func newSession(l *library, m *models.Model, device string, threads int) (*session, error) {
	list, err := attempts(device, m.CPUProviders)
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
		s, err := a.open(m, threads)
		if err == nil {
			return &session{ort: s, provider: a.provider, device: a.device, asked: device, threads: threads, notes: notes}, nil
		}
		if a.provider == models.ProviderCPU {
			return nil, fmt.Errorf("load model %s %s into ONNX Runtime %s: %w", m.Name, m.Version, l.version, err)
		}
		notes = append(notes, fmt.Sprintf("ONNX Runtime could not use %s on %s: %v", a.provider, a.device, err))
	}
	return nil, errors.New("no execution provider is left to try") // the list ends with the CPU
}

func (a attempt) open(m *models.Model, threads int) (*ort.DynamicAdvancedSession, error) {
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
	return ort.NewDynamicAdvancedSessionWithONNXData(m.Network, []string{m.Input.Name}, []string{m.Output.Name}, o)
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

// fits tells whether the session is the one for that device and thread count.
func (s *session) fits(device string, threads int) bool {
	return s != nil && s.asked == device && s.threads == threads
}

func (s *session) close() {
	if s != nil && s.ort != nil {
		_ = s.ort.Destroy() // only says that it was destroyed before
		s.ort = nil
	}
}

// run puts input of [n, 1, patch] through the network into output. It ends soon
// after ctx does.
func (s *session) run(ctx context.Context, input []float32, inShape []int64, output []float32, outShape []int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	in, err := ort.NewTensor(inShape, input)
	if err != nil {
		return fmt.Errorf("make the network's input: %w", err)
	}
	defer func() { _ = in.Destroy() }()
	out, err := ort.NewTensor(outShape, output)
	if err != nil {
		return fmt.Errorf("make the network's output: %w", err)
	}
	defer func() { _ = out.Destroy() }()
	opts, err := ort.NewRunOptions()
	if err != nil {
		return fmt.Errorf("run the network: %w", err)
	}
	defer func() { _ = opts.Destroy() }()
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = opts.Terminate() // it fails only for options that are gone; they wait for ended
		close(ended)
	})
	err = s.ort.RunWithOptions([]ort.Value{in}, []ort.Value{out}, opts)
	if !stop() {
		<-ended
		return ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("run the network on %s: %w", s.device, err)
	}
	return nil
}
