package command

import (
	"fmt"

	"github.com/spf13/cobra"

	"hilum/models"
)

func newConfigCommand(g *global) *cobra.Command {
	return group("config", "Check the configuration", newConfigCheckCommand(g))
}

func newConfigCheckCommand(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Read the configuration, verify what it names, start nothing",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := g.load()
			if err != nil {
				return err
			}
			for _, p := range cfg.Plugins {
				if p.Model == "" {
					continue
				}
				if _, err := models.Load(p.Model); err != nil {
					return usage(fmt.Errorf("plugin %s: %w", p.Name, err))
				}
			}
			file := cfg.File
			if file == "" {
				file = "no file, all defaults"
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: good. AE title %s on %s, data in %s, %s, %s\n", file, cfg.AETitle, cfg.Listen, cfg.Data,
				number(len(cfg.Plugins), "plugin"), number(len(cfg.Destinations), "destination"))
			return err
		},
	}
}
