package node

import (
	"context"
	"fmt"
	"reflect"
	"strings"

	"hilum/node/config"
)

// reloadable are the keys of the configuration that a reload takes over.
var reloadable = []string{"plugins", "devices", "pipelines", "rules"}

// Reload takes over the plugins, devices, pipelines and rules of a
// configuration, and reads the files of TLS again. Associations and running
// jobs go on; plugins that were broken are tried again. On an error everything
// stays as it is, but for the files of TLS.
func (n *Node) Reload(ctx context.Context, cfg config.Config) error {
	if n.tls != nil {
		if err := n.tls.Reload(); err != nil {
			return fmt.Errorf("the files of TLS are not taken over: %w", err)
		}
		n.log.Info("the files of TLS were read again")
	}
	old := *n.config.Load()
	if keys := otherChanges(old, cfg); len(keys) > 0 {
		n.log.Warn("some keys of the configuration have changed: a restart of the node takes them over", "keys", strings.Join(keys, ", "))
	}
	next := old
	next.Plugins, next.Devices, next.Pipelines, next.Rules = cfg.Plugins, cfg.Devices, cfg.Pipelines, cfg.Rules
	specs, err := Specs(next)
	if err != nil {
		return err
	}
	routing, err := newRouting(next)
	if err != nil {
		return err
	}
	if err := n.plugins.Reload(ctx, specs); err != nil {
		return fmt.Errorf("the plugins are not taken over: %w", err)
	}
	n.config.Store(&next)
	n.router.now.Store(routing)
	n.free.pool.Configure(routing.devices)
	n.free.changed()
	n.scheduler.arrange()
	n.log.Info("the plugins of the configuration were taken over", "plugins", len(next.Plugins), "pipelines", len(routing.pipelines), "rules", len(routing.rules))
	return nil
}

// otherChanges names the keys that differ and that a reload does not take over.
func otherChanges(old, next config.Config) []string {
	var keys []string
	a, b := reflect.ValueOf(old), reflect.ValueOf(next)
	for i := range a.NumField() {
		key := a.Type().Field(i).Tag.Get("yaml")
		if key == "" || key == "-" || strings.Contains(" "+strings.Join(reloadable, " ")+" ", " "+key+" ") {
			continue
		}
		if !reflect.DeepEqual(a.Field(i).Interface(), b.Field(i).Interface()) {
			keys = append(keys, key)
		}
	}
	return keys
}
