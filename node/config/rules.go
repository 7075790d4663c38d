package config

import (
	"fmt"
	"slices"
	"strings"

	"hilum/node/rule"
)

// Compile turns a rule into what package rule applies. Its error begins with
// the name of the key in the rule.
func (r Rule) Compile() (rule.Rule, error) {
	out := rule.Rule{Name: r.Name, Pipeline: r.Pipeline, Urgent: r.Priority == PriorityUrgent, Fallback: r.Fallback}
	add := func(key, attribute string, patterns []string) error {
		if patterns == nil {
			return nil
		}
		c, err := rule.NewCondition(attribute, patterns)
		if err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		out.Conditions = append(out.Conditions, c)
		return nil
	}
	for _, c := range []struct {
		key, attribute string
		patterns       []string
	}{
		{"modality", "Modality", r.Modality},
		{"body_part", "BodyPartExamined", r.BodyPart},
		{"slice_thickness", "SliceThickness", r.SliceThickness},
		{"kernel", "ConvolutionKernel", r.Kernel},
		{"description", "SeriesDescription", r.Description},
		{"calling_ae", rule.CallingAE, r.CallingAE},
	} {
		if err := add(c.key, c.attribute, c.patterns); err != nil {
			return out, err
		}
	}
	var keywords []string
	patterns := map[string][]string{}
	for _, h := range r.Header {
		keyword, pattern, ok := strings.Cut(h, "=")
		if !ok {
			return out, fmt.Errorf("header: %q is not Keyword=value", h)
		}
		if patterns[keyword] == nil {
			keywords = append(keywords, keyword)
		}
		patterns[keyword] = append(patterns[keyword], pattern)
	}
	for _, keyword := range keywords {
		if err := add("header", keyword, patterns[keyword]); err != nil {
			return out, err
		}
	}
	return out, nil
}

// Routing returns the rules and the pipelines that they lead to: those
// that are written, and each plugin alone. Where no rules are written, every
// plugin takes the series of its modalities.
func (c *Config) Routing() ([]rule.Rule, []Pipeline, error) {
	pipelines := slices.Clone(c.Pipelines)
	for _, p := range c.Plugins {
		pipelines = append(pipelines, Pipeline{Name: p.Name, Plugins: []string{p.Name}})
	}
	written := c.Rules
	if len(written) == 0 {
		for _, p := range c.Plugins {
			written = append(written, Rule{Name: p.Name, Pipeline: p.Name, Modality: p.Modalities})
		}
	}
	rules := make([]rule.Rule, len(written))
	for i, r := range written {
		var err error
		if rules[i], err = r.Compile(); err != nil {
			return nil, nil, fmt.Errorf("rule %s: %w", r.Name, err)
		}
	}
	return rules, pipelines, nil
}

func (v validator) devices(c *Config) {
	seen := map[string]int{}
	for i, d := range c.Devices {
		key := fmt.Sprintf("devices[%d]", i)
		if first, twice := seen[d.Name]; twice {
			v.problem(key+".name", "%q is the name of devices[%d] too: names are unique", d.Name, first)
		} else if !deviceRule.MatchString(d.Name) {
			v.problem(key+".name", "%q is not a device: write cpu, or a name such as cuda:0", d.Name)
		}
		seen[d.Name] = i
		v.between(key+".slots", d.Slots, 0, maxProcesses)
		v.between(key+".threads", d.Threads, 0, maxThreads)
	}
}

// devicesOf looks at the devices of one plugin.
func (v validator) devicesOf(c *Config, key string, p Plugin) {
	v.oneOf(key+".fallback", p.Fallback, fallbacks)
	if len(p.Devices) == 0 {
		v.problem(key+".devices", "the list is empty: no job of this plugin would ever run")
	}
	for j, name := range p.Devices {
		i := slices.IndexFunc(c.Devices, func(d Device) bool { return d.Name == name })
		switch {
		case i < 0 && name != CPU:
			v.problem(fmt.Sprintf("%s.devices[%d]", key, j), "there is no device %q: write it in `devices`", name)
		case i >= 0 && c.Devices[i].Memory > 0 && p.DeviceMemory > c.Devices[i].Memory:
			v.problem(key+".device_memory", "%s is more than %s has (%s): no job would ever run there", p.DeviceMemory, name, c.Devices[i].Memory)
		}
	}
}

func (v validator) pipelines(c *Config) {
	seen := map[string]int{}
	for i, p := range c.Pipelines {
		key := fmt.Sprintf("pipelines[%d]", i)
		v.name(key, p.Name, seen, i)
		if c.hasPlugin(p.Name) {
			v.problem(key+".name", "%q is the name of a plugin: a plugin alone is a pipeline already", p.Name)
		}
		if len(p.Plugins) == 0 {
			v.problem(key+".plugins", "the list is empty: a pipeline needs a plugin")
		}
		for j, name := range p.Plugins {
			if !c.hasPlugin(name) {
				v.problem(fmt.Sprintf("%s.plugins[%d]", key, j), "there is no plugin %q", name)
			}
		}
	}
}

func (c *Config) hasPlugin(name string) bool {
	return slices.ContainsFunc(c.Plugins, func(p Plugin) bool { return p.Name == name })
}

func (v validator) rules(c *Config) {
	seen := map[string]int{}
	for i, r := range c.Rules {
		key := fmt.Sprintf("rules[%d]", i)
		if first, twice := seen[r.Name]; r.Name == "" || len(r.Name) > maxRuleName {
			v.problem(key+".name", "missing or longer than %d characters: every rule needs a name", maxRuleName)
		} else if twice {
			v.problem(key+".name", "%q is the name of rules[%d] too: names are unique", r.Name, first)
		}
		seen[r.Name] = i
		v.oneOf(key+".priority", r.Priority, priorities)
		if !c.hasPlugin(r.Pipeline) && !slices.ContainsFunc(c.Pipelines, func(p Pipeline) bool { return p.Name == r.Pipeline }) {
			v.problem(key+".pipeline", "there is no pipeline or plugin %q", r.Pipeline)
		}
		if _, err := r.Compile(); err != nil {
			name, problem, _ := strings.Cut(err.Error(), ": ")
			v.problem(key+"."+name, "%s", problem)
		}
	}
}
