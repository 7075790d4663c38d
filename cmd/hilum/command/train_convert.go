package command

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"hilum/trainer/convert"
	"hilum/trainer/volume"
)

func newTrainConvertCommand() *cobra.Command {
	var o convert.Options
	var to string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "convert --out DIR FOLDER…",
		Short: "Turn DICOM series into MetaImage, or back",
		Long: `Turn every CT scan below the folders (DICOM series, MetaImages) into a MetaImage
DIR/<series uid>.mhd with its voxels in a .raw file beside it, as LUNA16 has
them; or, with --to dicom, into a DICOM series in the folder DIR/<series uid>,
which can be sent to a node. Hounsfield units and the place of every voxel in the
patient stay the same. A MetaImage whose name is a UID becomes the series of that
UID; the patient is made up.

A scan that was converted before is kept, one that was cut off is written again.
A scan that cannot be converted stops the command, which names it.

` + exitHelp,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.Out == "" {
				return errNoOut
			}
			o.To = convert.Format(to)
			if o.To != convert.MetaImage && o.To != convert.DICOM {
				return usage(fmt.Errorf("--to %q: choose %s or %s", to, convert.MetaImage, convert.DICOM))
			}
			if o.Compress && o.To == convert.DICOM {
				return usage(errors.New("--compress goes with MetaImage only"))
			}
			o.Program = existing(o.Program)
			p := newProgress(cmd.ErrOrStderr(), "convert")
			o.Progress = p.follow()
			sum, err := convert.Run(cmd.Context(), args, o)
			p.finish()
			tellLeft(cmd.ErrOrStderr(), sum.Left, sum.Notes)
			if err != nil {
				return fmt.Errorf("%w (%d of %s done; the same command goes on from here)", err, sum.Written+sum.Kept, number(sum.Scans, "scan"))
			}
			if asJSON {
				return writeJSON(cmd.OutOrStdout(), sum)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s in %s: %d written (%s, %s of voxels), %d were there\n",
				number(sum.Scans, "scan"), o.Out, sum.Written, number(sum.Images, "slice"), size(sum.Bytes), sum.Kept)
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Out, "out", "", "`DIR` to write to")
	f.StringVar(&to, "to", string(convert.MetaImage), "metaimage or dicom")
	f.BoolVar(&o.Compress, "compress", false, "compress the voxels (.zraw)")
	addScanFlags(f, &o.Program, &o.Jobs)
	f.BoolVar(&asJSON, "json", false, "print the summary as JSON")
	return cmd
}

// existing returns a program, or nothing when it is the default and not built:
// only compressed series need it, and their error says so.
func existing(program string) string {
	if program == defaultPlugin() {
		if _, err := os.Stat(program); err != nil {
			return ""
		}
	}
	return program
}

// defaultPlugin is the plugin that `make build` puts beside this program.
func defaultPlugin() string {
	self, err := os.Executable()
	if err != nil {
		return "lungnodule"
	}
	return filepath.Join(filepath.Dir(self), "plugins", "lungnodule")
}

// flagSet is what addScanFlags needs of a set of flags.
type flagSet interface {
	StringVar(p *string, name, value, usage string)
	IntVar(p *int, name string, value int, usage string)
}

// addScanFlags adds the flags of commands that read scans.
func addScanFlags(f flagSet, program *string, jobs *int) {
	f.StringVar(program, "plugin", defaultPlugin(), "lungnodule `PROGRAM`, which decodes compressed DICOM")
	f.IntVar(jobs, "jobs", 0, "scans at once, 500 MB of memory each (default: one for each processor, at most 4)")
}

// follow returns a function that moves the bar.
func (p *progress) follow() func(done, total int) {
	started := false
	return func(_, total int) {
		if !started {
			p.start(total)
			started = true
		}
		p.step()
	}
}

// tellLeft names what was left alone, and what a person should know.
func tellLeft(out io.Writer, left []volume.Left, notes []string) {
	for _, l := range left {
		fmt.Fprintf(out, "no scan: %s (%s)\n", l.Path, l.Reason)
	}
	for _, n := range notes {
		fmt.Fprintf(out, "note: %s\n", n)
	}
}
