package command

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"hilum/trainer/python"
)

// networkCommand runs a program of trainer/torch.
type networkCommand struct {
	program   string
	simulates bool // with --tiny it can do without data
	out       string
	sets      []string
	resume    bool
	tiny      bool
	devices   int
}

const networkHelp = `
PyTorch comes with "make setup-trainer". Lines of progress are printed as they
come; --out gets log.txt, log.csv, TensorBoard's events and checkpoint.pt. The
same seed and settings give the same curve. An end by Ctrl-C or SIGTERM writes a
checkpoint first, and --resume goes on from the last one, also after a crash.
--set KEY=VALUE changes a setting (trainer/torch/settings.py has them all); what
follows a -- goes to the program as it is.

` + exitHelp

func newTrainDetectorCommand() *cobra.Command {
	c := &networkCommand{program: "train_detector.py"}
	return c.command(&cobra.Command{
		Use:   "detector --out DIR DATA…",
		Short: "Train a nodule detector",
		Long: `Train a nodule detector on folders of "hilum train prepare" and folders of real
nodules (NAME.csv beside NAME with crops and masks), which are put into the scans
on the fly.
` + networkHelp,
	})
}

func newTrainClassifierCommand() *cobra.Command {
	c := &networkCommand{program: "train_classifier.py", simulates: true}
	return c.command(&cobra.Command{
		Use:   "classifier --out DIR (DATA | --tiny)",
		Short: "Train a classifier of malignancy and texture",
		Long: `Train a classifier of a nodule's malignancy and texture on folders of real nodules
with the readers' votes; with --tiny and no data on a few simulated ones.
` + networkHelp,
	})
}

func (c *networkCommand) command(cmd *cobra.Command) *cobra.Command {
	cmd.RunE = c.run
	f := cmd.Flags()
	f.StringVar(&c.out, "out", "", "`DIR` of the run")
	f.StringArrayVar(&c.sets, "set", nil, "`KEY=VALUE` of a setting; may be given again")
	f.BoolVar(&c.resume, "resume", false, "go on from the checkpoint in --out")
	f.BoolVar(&c.tiny, "tiny", false, "a network and a run of a minute, to try things")
	f.IntVar(&c.devices, "devices", 1, "`N` GPUs, or processes where there is none, of this machine")
	return cmd
}

func (c *networkCommand) run(cmd *cobra.Command, args []string) error {
	switch {
	case len(args) == 0 && !(c.tiny && c.simulates):
		return usage(errors.New("name the folders of data to train on"))
	case c.out == "":
		return usage(errors.New("--out is needed: it names the folder of the run"))
	case c.devices < 1:
		return usage(errors.New("--devices must be at least 1"))
	}
	line := append([]string(nil), args...)
	line = append(line, "--out", c.out)
	for _, s := range c.sets {
		line = append(line, "--set", s)
	}
	if c.resume {
		line = append(line, "--resume")
	}
	if c.tiny {
		line = append(line, "--tiny")
	}
	if err := runPython(cmd, c.program, line, c.devices); err != nil {
		if errors.Is(err, context.Canceled) {
			return errors.New("stopped; the same command with --resume goes on from the last checkpoint")
		}
		return err
	}
	curve, err := python.Curve(filepath.Join(c.out, "log.csv"), "loss")
	if err != nil || curve == "" {
		return nil // no curve is no failure of the training
	}
	_, err = fmt.Fprintln(cmd.OutOrStdout(), curve)
	return err
}

func newTrainExportCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "export CHECKPOINT DIR",
		Short: "Write a model folder from a checkpoint",
		Long: `Write model.onnx and model.json into DIR from a checkpoint of "hilum train detector"
or "hilum train classifier". The ONNX network must answer as PyTorch's does before
anything is written; a folder that is there is replaced only then. Look at the
result with "hilum model verify". What follows a -- goes to the program as it is.

` + exitHelp,
		Args: cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runPython(cmd, "export.py", args, 1)
		},
	}
}

// runPython runs a program of trainer/torch with the command's streams.
func runPython(cmd *cobra.Command, program string, args []string, processes int) error {
	executable, err := os.Executable()
	if err != nil {
		executable = "." // then the working folder alone is searched
	}
	env, err := python.Find(executable)
	if err != nil {
		return err
	}
	err = env.Run(cmd.Context(), program, args, processes, cmd.OutOrStdout(), cmd.ErrOrStderr())
	var wrong *python.UsageError
	if errors.As(err, &wrong) {
		return usage(err)
	}
	return err
}
