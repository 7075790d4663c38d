package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	"hilum/models/ct"
	"hilum/plugins/api"
	"hilum/plugins/lungnodule/codec"
)

// loadScan reads the scan of a job: a DICOM series or, from the trainer, one
// MetaImage alone in its folder.
func loadScan(ctx context.Context, job api.Job, threads int) (*ct.Volume, error) {
	name, err := metaImage(job.Folder)
	if err != nil {
		return nil, err
	}
	if name == "" {
		return ct.LoadSeries(ctx, job.Folder, ct.Options{Decoder: codec.Decode, Threads: threads})
	}
	v, err := ct.ReadMetaImage(name)
	if err != nil {
		// Nothing but the file can be to blame, so trying again cannot help.
		return nil, &ct.SeriesError{Kind: ct.Damaged, Reason: err.Error()}
	}
	v.SeriesInstanceUID = strings.TrimSuffix(filepath.Base(name), filepath.Ext(name))
	return v, nil
}

// metaImage returns the MetaImage that is the only thing in the folder, or "".
// It may be a link: the voxels lie beside the file that it leads to.
func metaImage(folder string) (string, error) {
	d, err := os.Open(folder)
	if err != nil {
		return "", err
	}
	defer func() { _ = d.Close() }() // only read
	names, err := d.Readdirnames(2)  // a third would say no more
	if err != nil || len(names) != 1 {
		return "", nil // not one file: LoadSeries says what is wrong, if anything
	}
	if ext := strings.ToLower(filepath.Ext(names[0])); ext != ".mhd" && ext != ".mha" {
		return "", nil
	}
	return filepath.EvalSymlinks(filepath.Join(folder, names[0]))
}
