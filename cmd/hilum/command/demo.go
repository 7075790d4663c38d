package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"hilum/node"
	"hilum/node/config"
	"hilum/node/web"
	"hilum/trainer/phantom"
)

// demo runs the whole road once, as a person would: a node, a CT sent to it
// by C-STORE, its findings.
type demo struct {
	ct, out       string
	plugin, model string
	seed          int64
	slices        int
	nodules       int
	stdout        io.Writer
	stderr        io.Writer
}

// demoQuiet is the demo's quiet time: short, because it knows that all images
// have been sent.
const demoQuiet = 2 * time.Second

// scoreDiameter is the least diameter (mm) of the phantom's nodules that
// count: below it a nodule is mostly partial volume.
const scoreDiameter = 6

func newDemoCommand() *cobra.Command {
	d := &demo{}
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Run a node on loopback, send it a chest CT, print the findings",
		Long: `Start a node on loopback with a fresh data folder, send it a chest CT by C-STORE
(a synthetic one with known nodules, or the series in --ct), wait for the
result, print the findings, write the report beside the data, stop the node.

` + exitHelp,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d.stdout, d.stderr = cmd.OutOrStdout(), cmd.ErrOrStderr()
			return d.run(cmd)
		},
	}
	program, _ := os.Executable() // unknown: the defaults below are then relative to the working folder
	bin := filepath.Dir(program)
	f := cmd.Flags()
	f.StringVar(&d.ct, "ct", "", "`FOLDER` with one chest CT series (default: a synthetic one)")
	f.StringVar(&d.out, "out", "", "`DIR` for data and report, empty or missing (default: a new temporary folder)")
	f.StringVar(&d.plugin, "plugin", filepath.Join(bin, "plugins", "lungnodule"), "plugin `PROGRAM`")
	f.StringVar(&d.model, "model", filepath.Join(filepath.Dir(bin), "models", "lung-nodule-detector"), "model `FOLDER`")
	f.Int64Var(&d.seed, "seed", 1, "of the synthetic CT")
	f.IntVar(&d.slices, "slices", 240, "of the synthetic CT")
	f.IntVar(&d.nodules, "nodules", 10, "in the synthetic CT")
	return cmd
}

func (d *demo) run(cmd *cobra.Command) (err error) {
	ctx := cmd.Context()
	if err := d.makeOut(); err != nil {
		return err
	}
	var truth *phantom.Truth
	if d.ct == "" {
		d.ct = filepath.Join(d.out, "phantom")
		d.say("writing a synthetic chest CT of %d slices to %s", d.slices, d.ct)
		p := newProgress(d.stderr, "phantom")
		t, err := writePhantom(cmd, d.ct, phantom.Options{Seed: d.seed, Slices: d.slices, Nodules: d.nodules}, p)
		p.finish()
		if err != nil {
			return err
		}
		truth = &t
	}

	cfg := d.config()
	log, err := os.OpenFile(filepath.Join(d.out, "node.log"), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("make the node's log: %w", err)
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	n, err := node.Start(ctx, node.Options{Config: cfg, Version: version, Logger: newLogger(cfg.Log, log), AllPlugins: true})
	if err != nil {
		return err
	}
	defer func() {
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		err = errors.Join(err, n.Stop(stopping))
	}()
	d.say("node %s listens on %s", cfg.AETitle, n.Addr())

	s := &sender{
		peer:         &peer{to: n.Addr().String(), called: cfg.AETitle, calling: "DEMO-CT", timeout: 30 * time.Second},
		associations: 1,
		progress:     newProgress(d.stderr, "sending"),
		skipped:      func(name string, reason error) { d.say("skipped %s: %v", name, reason) },
	}
	sum, err := s.send(ctx, []string{d.ct})
	s.progress.finish()
	if err != nil {
		return err
	}
	d.say("%s (%s) sent by C-STORE in %s", number(sum.sent, "image"), size(sum.bytes), sum.elapsed.Round(time.Millisecond))

	client, err := web.Open(ctx, cfg.Data, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	job, err := d.wait(ctx, client, n.Failed())
	if err != nil {
		return err
	}
	return d.print(ctx, client, job, truth)
}

// makeOut makes the folder that the demo writes to.
func (d *demo) makeOut() error {
	if d.out == "" {
		out, err := os.MkdirTemp("", "hilum-demo-")
		d.out = out
		return err
	}
	if err := os.MkdirAll(d.out, 0o755); err != nil {
		return fmt.Errorf("make the demo's folder: %w", err)
	}
	entries, err := os.ReadDir(d.out)
	if err != nil {
		return err
	}
	if len(entries) > 0 {
		return usage(fmt.Errorf("%s is not empty: remove it or name another folder with --out", d.out))
	}
	return nil
}

func (d *demo) config() config.Config {
	cfg := config.Default()
	cfg.Listen = "127.0.0.1:0"
	cfg.Data = filepath.Join(d.out, "data")
	cfg.Series.Quiet = demoQuiet
	cfg.Plugins = []config.Plugin{config.DefaultPlugin()}
	cfg.Plugins[0].Name, cfg.Plugins[0].Path, cfg.Plugins[0].Model = "lungnodule", d.plugin, d.model
	return cfg
}

// wait follows the jobs until the last one ends, with a line for each change.
func (d *demo) wait(ctx context.Context, client *web.Client, failed <-chan error) (web.Job, error) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	last := ""
	for {
		select {
		case <-ctx.Done():
			return web.Job{}, context.Cause(ctx)
		case err := <-failed:
			return web.Job{}, err
		case <-tick.C:
		}
		jobs, err := client.Jobs(ctx)
		if err != nil {
			return web.Job{}, err
		}
		if len(jobs) == 0 {
			continue
		}
		job := jobs[len(jobs)-1]
		if line := job.State + ": " + job.Reason; line != last {
			d.say("analysis %s", line)
			last = line
		}
		switch job.State {
		case "done":
			return client.Job(ctx, job.ID)
		case "dead":
			return job, fmt.Errorf("the series was not analysed: %s", job.Reason)
		}
	}
}

func (d *demo) print(ctx context.Context, client *web.Client, job web.Job, truth *phantom.Truth) error {
	fmt.Fprintln(d.stdout)
	if err := showFindings(d.stdout, job.Detail.Findings); err != nil {
		return err
	}
	fmt.Fprintln(d.stdout)
	if truth != nil {
		d.score(*truth, job.Detail.Findings)
	}
	report := filepath.Join(d.out, "report.dcm")
	if err := (&exporter{client: client}).instance(ctx, job.Report, report); err != nil {
		return err
	}
	fmt.Fprintf(d.stdout, "analysis:  %.1f s on %s (%s)\n", job.Detail.Seconds, job.Detail.Device, job.Detail.Runtime)
	fmt.Fprintf(d.stdout, "report:    %s (DICOM SR; dsrdump shows it)\n", report)
	fmt.Fprintf(d.stdout, "node log:  %s\n", filepath.Join(d.out, "node.log"))
	fmt.Fprintln(d.stdout, "For research use. Not a medical device.")
	return nil
}

// score compares the findings with the phantom's ground truth by LUNA16's
// rule: a mark hits a nodule when it is nearer to its centre than its radius.
func (d *demo) score(truth phantom.Truth, findings []web.Finding) {
	marks := make([]phantom.Mark, len(findings))
	for i, f := range findings {
		marks[i] = phantom.Mark{Center: [3]float64{f.X, f.Y, f.Z}, Probability: f.Probability}
	}
	r := phantom.Score(truth, marks, scoreDiameter)
	fmt.Fprintf(d.stdout, "truth:     %d of %d nodules of %d mm or more found (sensitivity %.2f), %s\n",
		len(r.Found), r.Nodules, scoreDiameter, r.Sensitivity(), number(len(r.FalsePositives), "false positive"))
	for _, m := range r.Missed {
		fmt.Fprintf(d.stdout, "missed:    %.1f mm %s %s at %.1f, %.1f, %.1f\n", m.DiameterMM, m.Kind, m.Place, m.Center[0], m.Center[1], m.Center[2])
	}
}

func (d *demo) say(format string, args ...any) { fmt.Fprintf(d.stderr, format+"\n", args...) }
