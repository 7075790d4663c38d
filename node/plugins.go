package node

import (
	"hilum/node/config"
	"hilum/node/web"
	"hilum/plugins/host"
)

// ConfiguredPlugins describes the plugins of a configuration without a node.
func ConfiguredPlugins(cfg config.Config) []web.Plugin {
	views := make([]web.Plugin, len(cfg.Plugins))
	for i, p := range cfg.Plugins {
		views[i] = web.Plugin{Name: p.Name, Path: p.Path, SHA256: p.SHA256, State: "not started", Modalities: p.Modalities, Devices: p.Devices, Models: []web.Model{}}
	}
	return views
}

// PluginViews joins what is configured with what the host knows: a view a
// process.
func PluginViews(cfg config.Config, status []host.Status) []web.Plugin {
	var views []web.Plugin
	for _, v := range ConfiguredPlugins(cfg) {
		started := false
		for _, s := range status {
			if s.Name == v.Name {
				started = true
				views = append(views, pluginView(v, s))
			}
		}
		if !started {
			views = append(views, v)
		}
	}
	return views
}

func pluginView(v web.Plugin, s host.Status) web.Plugin {
	v.Process = s.Process
	v.SHA256 = s.SHA256
	v.State = string(s.State)
	v.PID = s.Pid
	v.Restarts = s.Restarts
	v.Version = s.Description.Version
	v.Kind = s.Description.Kind
	v.Runtime = s.Description.Runtime
	v.Reason = s.Problem
	v.LastOutput = s.LastOutput
	v.Isolation = s.Isolation.String()
	v.MemoryBytes, v.MemoryLimitBytes = s.MemoryBytes, s.MemoryLimit
	for _, m := range s.Description.Models {
		v.Models = append(v.Models, web.Model(m))
	}
	return v
}
