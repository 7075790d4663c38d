package command

import (
	"bufio"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"hilum/node"
	"hilum/node/config"
)

func newConfigCommand(g *global) *cobra.Command {
	return group("config", "Check the configuration", newConfigCheckCommand(g), newConfigPasscodeCommand())
}

// maxPasscode bounds what is read as one: a sub-item of an A-ASSOCIATE-RQ has no
// room for more.
const maxPasscode = 1 << 16

func newConfigPasscodeCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "passcode",
		Short: "Read a passcode from standard input, print what stands for it in the configuration",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			line, err := bufio.NewReader(io.LimitReader(cmd.InOrStdin(), maxPasscode)).ReadString('\n')
			if err != nil && err != io.EOF {
				return fmt.Errorf("read the passcode: %w", err)
			}
			hash, err := config.HashPasscode([]byte(strings.TrimRight(line, "\r\n")))
			if err != nil {
				return usage(err)
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), hash)
			return err
		},
	}
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
			if _, err := node.Specs(cfg); err != nil {
				return usage(err)
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
