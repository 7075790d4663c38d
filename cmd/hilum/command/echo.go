package command

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"hilum/dimse"
	"hilum/node/access"
	"hilum/node/config"
)

// peer are the flags that name a DICOM peer.
type peer struct {
	to, called, calling string
	timeout             time.Duration
	secure              config.DestinationTLS
	tls                 *tls.Config // nil without TLS
}

func (p *peer) addFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&p.to, "to", "", "`HOST:PORT` of the peer (default: the configured node itself)")
	cmd.Flags().StringVar(&p.called, "called", "", "AE `TITLE` of the peer (default: the configured node's)")
	cmd.Flags().StringVar(&p.calling, "calling", "HILUM-SCU", "AE `TITLE` to call from")
	cmd.Flags().DurationVar(&p.timeout, "timeout", 30*time.Second, "longest wait for an answer")
	cmd.Flags().BoolVar(&p.secure.Enabled, "tls", false, "connect with TLS (default: as configured, if --to is not given)")
	cmd.Flags().StringVar(&p.secure.CA, "tls-ca", "", "PEM `FILE` of the authorities of the peer's certificate (default: the system's)")
	cmd.Flags().StringVar(&p.secure.Certificate, "tls-cert", "", "PEM `FILE` of the certificate to show")
	cmd.Flags().StringVar(&p.secure.Key, "tls-key", "", "PEM `FILE` of its key")
	cmd.Flags().StringVar(&p.secure.ServerName, "tls-name", "", "`NAME` that the peer's certificate must have (default: the host of --to)")
}

// resolve fills in what was not named from the configuration.
func (p *peer) resolve(g *global) error {
	if err := p.resolveTLS(); err != nil {
		return usage(err)
	}
	if p.to != "" && p.called != "" {
		return nil
	}
	cfg, err := g.load()
	if err != nil {
		return err
	}
	if p.to == "" {
		p.to = cfg.Listen
		if cfg.TLS.Certificate != "" && !p.secure.Enabled {
			if p.tls, err = access.SelfTLS(cfg.TLS); err != nil {
				return err
			}
		}
	}
	if p.called == "" {
		p.called = cfg.AETitle
	}
	return nil
}

// resolveTLS reads the files that the flags name.
func (p *peer) resolveTLS() (err error) {
	switch {
	case !p.secure.Enabled && p.secure != (config.DestinationTLS{}):
		return errors.New("the other --tls flags need --tls")
	case (p.secure.Certificate == "") != (p.secure.Key == ""):
		return errors.New("--tls-cert and --tls-key belong together")
	case p.secure.Enabled:
		p.tls, err = access.ClientTLS(p.secure)
	}
	return err
}

func (p *peer) client(contexts ...dimse.PresentationContext) *dimse.Client {
	return &dimse.Client{CallingAETitle: p.calling, CalledAETitle: p.called, Timeout: p.timeout, TLS: p.tls, Contexts: contexts}
}

func newEchoCommand(g *global) *cobra.Command {
	p := &peer{}
	cmd := &cobra.Command{
		Use:   "echo",
		Short: "Ask a DICOM peer for a sign of life (C-ECHO)",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := p.resolve(g); err != nil {
				return err
			}
			begin := time.Now()
			if err := runEcho(cmd.Context(), p); err != nil {
				return err
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s at %s answers (%s)\n", p.called, p.to, time.Since(begin).Round(time.Millisecond))
			return err
		},
	}
	p.addFlags(cmd)
	return cmd
}

func runEcho(ctx context.Context, p *peer) error {
	conn, err := p.client(dimse.VerificationContext()).Dial(ctx, p.to)
	if err != nil {
		return fmt.Errorf("no association with %s at %s: %w", p.called, p.to, err)
	}
	if err := conn.Echo(ctx); err != nil {
		return errors.Join(fmt.Errorf("%s at %s does not answer C-ECHO: %w", p.called, p.to, err), conn.Close())
	}
	return conn.Release(ctx)
}
