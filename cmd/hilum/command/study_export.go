package command

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"hilum/dimse/dataset"
	"hilum/dimse/deidentify"
	"hilum/node/web"
)

// exporter writes stored images as files.
type exporter struct {
	client      *web.Client
	out, series string
	profile     *deidentify.Profile // nil: byte for byte as stored
	skipped     func(sopInstanceUID string, reason error)

	written, left int
}

func newStudyExportCommand(g *global) *cobra.Command {
	var x exporter
	var key string
	var clean, burned bool
	cmd := &cobra.Command{
		Use:   "export --out DIR UID",
		Short: "Write a study as DICOM files, as stored or de-identified",
		Long: `Write one Part 10 file for each image of a study into DIR, as series<NN>/<number>.dcm
in slice order; --series takes one series only. DIR is made if it is missing;
a file that is there already is never replaced.

Files are written byte for byte as stored. With --deidentify they go through the
Basic Application Level Confidentiality Profile of DICOM (PS3.15 annex E): names,
numbers, dates, places, free text that the profile names, private elements and
overlays are taken out, UIDs are replaced, pixels stay. --key FILE, made if it is
missing, has the same UIDs and patients come out alike in every export that uses
it; without it each export is a world of its own. Whoever has the key can tell
whether a file is of a patient whose number he knows: keep it where the data are.

Objects that are no images are skipped, as are images that may have text burned
into their pixels, unless --allow-burned-in is given. The profile reads no text
in elements that it keeps, and no pixels: look at what you give away.

` + exitHelp,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			switch {
			case x.out == "":
				return errNoOut
			case !clean && (key != "" || burned):
				return usage(errors.New("--key and --allow-burned-in are of use with --deidentify only"))
			}
			if clean {
				secret, err := exportKey(key)
				if err != nil {
					return err
				}
				x.profile = &deidentify.Profile{Key: secret, BurnedIn: burned}
			}
			x.skipped = func(uid string, reason error) {
				fmt.Fprintf(cmd.ErrOrStderr(), "skipped %s: %v\n", uid, reason)
			}
			if x.client, err = g.client(cmd); err != nil {
				return err
			}
			defer func() { err = errors.Join(err, x.client.Close()) }()
			study, err := findStudy(cmd.Context(), x.client, args)
			if err != nil {
				return err
			}
			if err := x.study(cmd.Context(), study); err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "%s written to %s\n", number(x.written, "image"), x.out)
			if x.left > 0 {
				return &exitError{exitSkipped, fmt.Errorf("%s skipped", number(x.left, "object"))}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&x.out, "out", "", "`DIR` to write to")
	f.StringVar(&x.series, "series", "", "only the series with this `UID`")
	f.BoolVar(&clean, "deidentify", false, "take out what may identify the patient")
	f.StringVar(&key, "key", "", "`FILE` with the key of the pseudonyms, made if it is missing")
	f.BoolVar(&burned, "allow-burned-in", false, "write images too that may have text burned in")
	return cmd
}

// exportKey reads the key, or makes one.
func exportKey(name string) ([]byte, error) {
	fresh := make([]byte, deidentify.KeySize)
	_, _ = rand.Read(fresh) // never fails: it ends the process instead
	if name == "" {
		return fresh, nil
	}
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		err = writeWhole(name, 0o600, func(w io.Writer) error {
			_, err := fmt.Fprintln(w, hex.EncodeToString(fresh))
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("write the key: %w", err)
		}
		return fresh, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the key: %w", err)
	}
	secret, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(secret) < deidentify.KeySize {
		return nil, fmt.Errorf("%s is no key of this program: name a file that does not exist, and one is made", name)
	}
	return secret, nil
}

func (x *exporter) study(ctx context.Context, study web.Study) error {
	for i, s := range study.Series {
		if x.series != "" && s.SeriesInstanceUID != x.series {
			continue
		}
		uids, err := x.client.Instances(ctx, s.SeriesInstanceUID)
		if err != nil {
			return err
		}
		// Folder and file names are ours: nothing from the wire becomes a path.
		dir := filepath.Join(x.out, fmt.Sprintf("series%02d", i+1))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make the export folder: %w", err)
		}
		for k, uid := range uids {
			switch err := x.instance(ctx, uid, filepath.Join(dir, fmt.Sprintf("%06d.dcm", k+1))); {
			case unfit(err):
				x.left++
				x.skipped(uid, err)
			case err != nil:
				return fmt.Errorf("export image %s: %w", uid, err)
			default:
				x.written++
			}
		}
	}
	if x.written+x.left == 0 {
		return fmt.Errorf("study %s has no series %s", study.StudyInstanceUID, x.series)
	}
	return nil
}

// unfit says whether an error speaks of one object and of nothing else.
func unfit(err error) bool {
	var damaged *dataset.Error
	return errors.Is(err, deidentify.ErrBurnedIn) || errors.Is(err, deidentify.ErrNoImage) || errors.Is(err, deidentify.ErrUnwritable) ||
		errors.Is(err, dataset.ErrNotDICOM) || errors.As(err, &damaged)
}

func (x *exporter) instance(ctx context.Context, uid, name string) error {
	r, err := x.client.Instance(ctx, uid)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }() // only read
	if x.profile == nil {
		return writeWhole(name, 0o644, func(w io.Writer) error {
			_, err := io.Copy(w, r)
			return err
		})
	}
	object, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	return writeWhole(name, 0o644, func(w io.Writer) error { return x.profile.Write(w, object) })
}

// writeWhole writes a file that is not there yet; one that cannot be written whole is
// removed again.
func writeWhole(name string, mode os.FileMode, write func(io.Writer) error) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	if err := errors.Join(write(f), f.Close()); err != nil {
		return errors.Join(err, os.Remove(name))
	}
	return nil
}
