package node

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/grailbio/go-dicom/dicomtag"

	"hilum/dimse/dataset"
	"hilum/node/config"
	"hilum/node/device"
	"hilum/node/rule"
	"hilum/store"
)

// routing is what a reload replaces: which series go where, and what runs them.
type routing struct {
	rules     []rule.Rule
	extra     []dataset.Tag // that rules look at and the index does not have
	pipelines []config.Pipeline
	plugins   []config.Plugin
	devices   []device.Device
	threads   int // that a job gets, 0: what its device gives
}

// router finds the way of a series by the routing of now.
type router struct {
	store *store.Store
	now   atomic.Pointer[routing]
}

func newRouting(cfg config.Config) (*routing, error) {
	rules, pipelines, err := cfg.Routing()
	if err != nil {
		return nil, err
	}
	r := &routing{rules: rules, pipelines: pipelines, plugins: cfg.Plugins, devices: devices(cfg), threads: cfg.Jobs.Threads}
	for _, keyword := range rule.Attributes(rules) {
		info, err := dicomtag.FindByName(keyword)
		if err != nil {
			return nil, fmt.Errorf("find the attribute %s: %w", keyword, err)
		}
		if !slices.Contains(dataset.IndexTags, info.Tag) {
			r.extra = append(r.extra, info.Tag)
		}
	}
	return r, nil
}

// devices are those of the configuration, and the CPU, with all defaults.
func devices(cfg config.Config) []device.Device {
	written := cfg.Devices
	if !slices.ContainsFunc(written, func(d config.Device) bool { return d.Name == config.CPU }) {
		written = append(slices.Clone(written), config.Device{Name: config.CPU})
	}
	processes := 0
	for _, p := range cfg.Plugins {
		processes += p.Processes
	}
	var all []device.Device
	for _, d := range written {
		if d.Slots == 0 && d.Name == config.CPU {
			d.Slots = processes
		}
		if d.Threads == 0 {
			d.Threads = runtime.NumCPU()
		}
		all = append(all, device.Device{Name: d.Name, Slots: max(d.Slots, 1), Memory: int64(d.Memory), Threads: d.Threads})
	}
	return all
}

func (r *routing) plugin(name string) (config.Plugin, bool) {
	i := slices.IndexFunc(r.plugins, func(p config.Plugin) bool { return p.Name == name })
	if i < 0 {
		return config.Plugin{}, false
	}
	return r.plugins[i], true
}

func (r *routing) pipeline(name string) (config.Pipeline, bool) {
	i := slices.IndexFunc(r.pipelines, func(p config.Pipeline) bool { return p.Name == name })
	if i < 0 {
		return config.Pipeline{}, false
	}
	return r.pipelines[i], true
}

// workers is how many jobs of a pipeline can be under way at a time.
func (r *routing) workers(p config.Pipeline) int {
	n := 0
	for _, name := range p.Plugins {
		if pl, ok := r.plugin(name); ok {
			n += pl.Processes
		}
	}
	return n
}

// routes are the pipelines that a series goes to. Results, whoever made them, are
// never analysed, not even when a PACS sends them back.
func (r *router) routes(s store.Series) ([]rule.Route, error) {
	if resultOf(s) != "" {
		return nil, nil
	}
	now := r.now.Load()
	header := s.Header
	if len(now.extra) > 0 {
		images, err := r.store.Instances(s.SeriesInstanceUID)
		if err != nil {
			return nil, fmt.Errorf("list the series for its rules: %w", err)
		}
		if len(images) == 0 {
			return nil, nil
		}
		if header, err = r.header(images[0].SOPInstanceUID, now.extra, header); err != nil {
			return nil, fmt.Errorf("read the header of an image for the rules: %w", err)
		}
	}
	routes, _ := rule.Decide(now.rules, rule.Series{
		Value:      func(keyword string) string { return header[keyword] },
		CallingAEs: s.Sources,
	})
	return routes, nil
}

// header reads attributes of an image beside those of the index.
func (r *router) header(sopInstanceUID string, tags []dataset.Tag, indexed map[string]string) (map[string]string, error) {
	rc, _, err := r.store.OpenInstance(sopInstanceUID)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	file, err := dataset.ReadHeaderFrom(rc, append([]dataset.Tag{dicomtag.SpecificCharacterSet}, tags...))
	if err != nil {
		return nil, err
	}
	all := file.Header.Map()
	for keyword, value := range indexed {
		all[keyword] = value
	}
	return all, nil
}

// devicesFor are the devices that a job of plugin p may run on now, the best
// first. offered is what the plugin says it can use, nil if it said nothing;
// failed are those on which the job has failed.
func devicesFor(p config.Plugin, offered, failed []string) []string {
	usable := slices.DeleteFunc(slices.Clone(p.Devices), func(d string) bool {
		return offered != nil && !slices.Contains(offered, d) && !slices.Contains(offered, kind(d))
	})
	if len(usable) == 0 {
		usable = []string{config.CPU} // it was written for nothing else, whatever the configuration hopes for
	}
	left := slices.DeleteFunc(slices.Clone(usable), func(d string) bool {
		return p.Fallback != config.FallbackNever && slices.Contains(failed, d)
	})
	if len(left) == 0 {
		left = usable // it has failed everywhere: the best deserves another try
	}
	if p.Fallback == config.FallbackBusy {
		return left
	}
	return slices.DeleteFunc(left, func(d string) bool { return kind(d) != kind(left[0]) })
}

// kind is cuda of cuda:0.
func kind(device string) string {
	before, _, _ := strings.Cut(device, ":")
	return before
}
