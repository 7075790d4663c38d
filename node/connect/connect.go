// Package connect opens associations with the peers of the configuration. It
// knows how to reach them, by TLS or without, and nothing of what is then done.
package connect

import (
	"context"
	"fmt"

	"hilum/dimse"
	"hilum/node/access"
	"hilum/node/config"
)

// Association is what is asked for.
type Association struct {
	Contexts   []dimse.PresentationContext
	Roles      map[string]dimse.Roles
	Normalized map[string]dimse.NService // for what the peer asks on it
}

// Dial opens an association with a peer. calling is the AE title of this node,
// which that of the destination overrides. The error names the peer.
func Dial(ctx context.Context, to config.Destination, calling string, a Association) (*dimse.Conn, error) {
	if to.CallingAETitle != "" {
		calling = to.CallingAETitle
	}
	client := dimse.Client{
		CallingAETitle: calling, CalledAETitle: to.AETitle, Timeout: to.Timeout,
		Contexts: a.Contexts, Roles: a.Roles, Normalized: a.Normalized,
	}
	if to.TLS.Enabled {
		var err error
		if client.TLS, err = access.ClientTLS(to.TLS); err != nil {
			return nil, fmt.Errorf("TLS with %s: %w", to.Name, err)
		}
	}
	conn, err := client.Dial(ctx, to.Address)
	if err != nil {
		return nil, fmt.Errorf("connect to %s (%s): %w", to.Name, to.Address, err)
	}
	return conn, nil
}
