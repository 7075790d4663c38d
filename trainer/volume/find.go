package volume

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/grailbio/go-dicom/dicomtag"

	"hilum/dimse/dataset"
)

// Scan is a scan that Find has found.
type Scan struct {
	UID       string // SeriesInstanceUID; of a MetaImage its name without extension
	Path      string // the series' folder, or the MetaImage's header
	MetaImage bool
}

// Left is something below the folders that is no CT scan and was left alone.
type Left struct {
	Path   string
	Reason string
}

// Found is what lies below folders.
type Found struct {
	Scans []Scan // by UID
	Left  []Left // by path
}

// SegmentationFolder is what LUNA16 calls the folder of its lung
// segmentations. They have the names of the scans, but are none.
const SegmentationFolder = "seg-lungs-LUNA16"

// SOP classes that Load takes, or refuses with a reason of its own (PS3.4 B.5).
var ctClasses = []string{
	"1.2.840.10008.5.1.4.1.1.2",
	"1.2.840.10008.5.1.4.1.1.2.1",
	"1.2.840.10008.5.1.4.1.1.2.2",
}

// Find lists the scans at paths: MetaImages, series folders, and all such below
// a folder. A folder with DICOM images is one scan; that it holds one series
// only is checked when it is loaded. Two scans of one UID are an error, as is a
// path without any scan. Links to folders are not followed.
func Find(paths ...string) (Found, error) {
	return FindContext(context.Background(), paths...)
}

// FindContext is Find that ends with ctx: a large tree takes its time.
func FindContext(ctx context.Context, paths ...string) (Found, error) {
	var found Found
	for _, p := range paths {
		before := len(found.Scans)
		if err := found.add(ctx, p); err != nil {
			return Found{}, err
		}
		if len(found.Scans) == before {
			return Found{}, fmt.Errorf("%s holds no scan: neither a folder of DICOM CT images nor a MetaImage (.mhd, .mha)%s", p, found.why(p))
		}
	}
	slices.SortFunc(found.Scans, func(a, b Scan) int { return strings.Compare(a.UID, b.UID) })
	slices.SortFunc(found.Left, func(a, b Left) int { return strings.Compare(a.Path, b.Path) })
	for n := 1; n < len(found.Scans); n++ {
		if a, b := found.Scans[n-1], found.Scans[n]; a.UID == b.UID {
			return Found{}, fmt.Errorf("the scan %s is there twice: %s and %s; name only one of them", a.UID, a.Path, b.Path)
		}
	}
	return found, nil
}

// why adds the first thing that was left below p to the sentence that it holds
// no scan.
func (f *Found) why(p string) string {
	for _, l := range f.Left {
		if strings.HasPrefix(l.Path, p) {
			return fmt.Sprintf("; %s was left: %s", l.Path, l.Reason)
		}
	}
	return ""
}

func (f *Found) add(ctx context.Context, path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		if !isMetaImage(path) {
			return fmt.Errorf("%s is not a scan: give a folder of DICOM images or a MetaImage (.mhd, .mha)", path)
		}
		f.addMetaImage(path)
		return nil
	}
	return filepath.WalkDir(path, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if !e.IsDir() {
			if isMetaImage(name) && !strings.HasPrefix(e.Name(), ".") {
				f.addMetaImage(name)
			}
			return nil
		}
		if name != path && strings.HasPrefix(e.Name(), ".") {
			return fs.SkipDir // half-written output, file systems' own folders
		}
		if e.Name() == SegmentationFolder {
			f.Left = append(f.Left, Left{name, "lung segmentations"})
			return fs.SkipDir
		}
		return f.addFolder(name)
	})
}

func isMetaImage(name string) bool {
	ext := strings.ToLower(filepath.Ext(name))
	return ext == ".mhd" || ext == ".mha"
}

// uidOf returns the name of a MetaImage's scan.
func uidOf(path string) string {
	return strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))
}

func (f *Found) addMetaImage(path string) {
	f.Scans = append(f.Scans, Scan{UID: uidOf(path), Path: path, MetaImage: true})
}

// findTags are what the first image of a folder is asked.
var findTags = []dataset.Tag{dicomtag.SOPClassUID, dicomtag.SeriesInstanceUID}

// addFolder adds the folder itself when its files are CT images. The first file
// that is DICOM speaks for all.
func (f *Found) addFolder(folder string) error {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := filepath.Join(folder, e.Name())
		if strings.HasPrefix(e.Name(), ".") || notDICOM(name) {
			continue
		}
		if info, err := os.Stat(name); err != nil || !info.Mode().IsRegular() {
			continue
		}
		file, err := dataset.ReadHeader(name, findTags)
		if errors.Is(err, dataset.ErrNotDICOM) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		class, uid := file.Header.String(dicomtag.SOPClassUID), file.Header.String(dicomtag.SeriesInstanceUID)
		if class == "" {
			continue // a DICOMDIR
		}
		if !slices.Contains(ctClasses, class) {
			f.Left = append(f.Left, Left{folder, "DICOM objects that are not CT images"})
			return nil
		}
		if !dataset.ValidUID(uid) {
			return fmt.Errorf("the images in %s have no valid Series Instance UID", folder)
		}
		f.Scans = append(f.Scans, Scan{UID: uid, Path: folder})
		return nil
	}
	return nil
}

// notDICOM spares the opening of files that lie beside scans by the hundred.
func notDICOM(name string) bool {
	switch strings.ToLower(filepath.Ext(name)) {
	case ".mhd", ".mha", ".raw", ".zraw", ".csv", ".json", ".npy", ".txt", ".xml", ".md":
		return true
	}
	return false
}

// Fingerprint returns a hash of the names, sizes and times of the scan's files,
// by which a later run tells a scan that was changed.
func (s Scan) Fingerprint() (string, error) {
	folder, prefix := s.Path, ""
	if s.MetaImage {
		folder, prefix = filepath.Dir(s.Path), s.UID+"."
	}
	entries, err := os.ReadDir(folder)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	for _, e := range entries {
		if e.IsDir() || !strings.HasPrefix(e.Name(), prefix) {
			continue
		}
		info, err := os.Stat(filepath.Join(folder, e.Name()))
		if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "%q %d %d\n", e.Name(), info.Size(), info.ModTime().UnixNano()) // a hash never fails
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
