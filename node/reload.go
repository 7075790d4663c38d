package node

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"hilum/node/access"
	"hilum/node/config"
)

// reloadable are the keys of the configuration that a reload takes over.
var reloadable = []string{
	"plugins", "devices", "pipelines", "rules",
	"any_called_ae_title", "peers", "unknown_peers", "unknown_services", "user_identity", "users", "move_destinations",
}

// Reload takes over what a configuration says of plugins, devices, pipelines and
// rules, of who may have an association, and of where peers are; and it reads the
// files of TLS again. Associations and running jobs go on, by the rules they began
// under; plugins that were broken are tried again. On an error everything stays as
// it is, but for the files of TLS.
func (n *Node) Reload(ctx context.Context, cfg config.Config) error {
	err := errors.Join(n.audit.Reopen(), n.reload(ctx, cfg))
	n.audit.Configured(err)
	return err
}

func (n *Node) reload(ctx context.Context, cfg config.Config) error {
	if n.tls != nil {
		if err := n.tls.Reload(); err != nil {
			return fmt.Errorf("the files of TLS are not taken over: %w", err)
		}
		n.log.Info("the files of TLS were read again")
	}
	old := *n.config.Load()
	keys := otherChanges(old, cfg)
	if !reflect.DeepEqual(old.Notified(), cfg.Notified()) {
		keys = append(keys, "peers[].availability") // each has a worker from the start
	}
	if len(keys) > 0 {
		n.log.Warn("some keys of the configuration have changed: a restart of the node takes them over", "keys", strings.Join(keys, ", "))
	}
	next := old
	next.Plugins, next.Devices, next.Pipelines, next.Rules = cfg.Plugins, cfg.Devices, cfg.Pipelines, cfg.Rules
	next.AnyCalledAETitle, next.Peers, next.UnknownPeers, next.UnknownServices = cfg.AnyCalledAETitle, cfg.Peers, cfg.UnknownPeers, cfg.UnknownServices
	next.UserIdentity, next.Users, next.MoveDestinations = cfg.UserIdentity, cfg.Users, cfg.MoveDestinations
	rules, err := access.New(next)
	if err != nil {
		return err
	}
	if err := checkPeerTLS(next); err != nil {
		return err
	}
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
	n.access.Store(rules)
	n.archive.known.Store(&next.MoveDestinations)
	n.router.now.Store(routing)
	n.free.pool.Configure(routing.devices)
	n.free.changed()
	n.scheduler.arrange()
	n.log.Info("the configuration was taken over", "plugins", len(next.Plugins), "pipelines", len(routing.pipelines), "rules", len(routing.rules),
		"peers", len(next.Peers), "users", len(next.Users), "move_destinations", len(next.MoveDestinations))
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
