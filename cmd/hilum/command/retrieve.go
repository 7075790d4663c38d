package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"hilum/dimse"
	"hilum/dimse/dataset"
)

// retrieved is the answer of `hilum get` and `hilum move`.
type retrieved struct {
	Completed int      `json:"completed"`
	Warning   int      `json:"warning"`
	Failed    int      `json:"failed"`
	Remaining int      `json:"remaining"`
	FailedUID []string `json:"failed_sop_instance_uids"`
	Status    string   `json:"status"`
}

// reportRetrieved prints what became of a retrieval. Images that failed make exit code 3.
func reportRetrieved(cmd *cobra.Command, done dimse.Retrieved, asJSON bool) error {
	r := retrieved{done.Completed, done.Warning, done.Failed, done.Remaining, done.FailedUIDs, fmt.Sprintf("%04XH", uint16(done.Status))}
	if r.FailedUID == nil {
		r.FailedUID = []string{}
	}
	if asJSON {
		if err := writeJSON(cmd.OutOrStdout(), r); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(cmd.OutOrStdout(), "%s sent, %d with a warning, %d failed\n", number(r.Completed+r.Warning, "image"), r.Warning, r.Failed)
		for _, uid := range r.FailedUID {
			fmt.Fprintf(cmd.ErrOrStderr(), "not sent: %s\n", printable(uid))
		}
	}
	if r.Failed > 0 || r.Remaining > 0 {
		return &exitError{exitSkipped, fmt.Errorf("%s not sent (status %s)", number(r.Failed+r.Remaining, "image"), r.Status)}
	}
	return nil
}

const retrieveHelp = `On each level the UIDs of that level and of those above are needed, and of the
level itself several may be given with a backslash between them:
-k StudyInstanceUID=1.2.3 -k 'SeriesInstanceUID=1.2.3.1\1.2.3.2'.

`

func newMoveCommand(g *global) *cobra.Command {
	q := &question{}
	var destination string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "move --destination TITLE -k KEY=VALUE…",
		Short: "Have a DICOM peer send images to another (C-MOVE)",
		Long: `Ask a peer by C-MOVE to send what it holds to a destination, an AE title that
the peer must know. ` + retrieveHelp + exitHelp,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if destination == "" {
				return usage(errors.New("--destination is needed: it names the AE title to send to"))
			}
			classes, err := q.resolve(g)
			if err != nil {
				return err
			}
			done, err := q.retrieve(cmd, dimse.Client{Contexts: []dimse.PresentationContext{dimse.QueryContext(classes[1])}},
				func(ctx context.Context, conn *dimse.Conn, identifier []*dataset.Element, progress func(dimse.SubOperations) bool) (dimse.Retrieved, error) {
					return conn.Move(ctx, classes[1], destination, identifier, progress)
				})
			if err != nil {
				return err
			}
			return reportRetrieved(cmd, done, asJSON)
		},
	}
	q.addFlags(cmd)
	cmd.Flags().StringVar(&destination, "destination", "", "AE `TITLE` to send to")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func newGetCommand(g *global) *cobra.Command {
	q := &question{}
	var out string
	var classes []string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "get --out DIR -k KEY=VALUE…",
		Short: "Fetch images from a DICOM peer (C-GET)",
		Long: `Fetch what a peer holds by C-GET over one association, as files 000001.dcm and so on
in DIR, which is made if it is missing; a file that is there already is never
replaced. ` + retrieveHelp + exitHelp,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if out == "" {
				return errNoOut
			}
			models, err := q.resolve(g)
			if err != nil {
				return err
			}
			if err := os.MkdirAll(out, 0o755); err != nil {
				return fmt.Errorf("make the folder: %w", err)
			}
			client, err := fetchClient(models[2], classes)
			if err != nil {
				return usage(err)
			}
			f := &fetcher{dir: out}
			done, err := q.retrieve(cmd, client,
				func(ctx context.Context, conn *dimse.Conn, identifier []*dataset.Element, progress func(dimse.SubOperations) bool) (dimse.Retrieved, error) {
					return conn.Get(ctx, models[2], identifier, f, progress)
				})
			if f.failed != nil {
				return f.failed
			}
			if err != nil {
				return err
			}
			return reportRetrieved(cmd, done, asJSON)
		},
	}
	q.addFlags(cmd)
	cmd.Flags().StringVar(&out, "out", "", "`DIR` to write to")
	cmd.Flags().StringArrayVar(&classes, "sop-class", nil, "`UID` of a storage SOP class to take, instead of the usual ones; may be repeated")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// fetchClasses are proposed where none are named: what goes with chest CT. The
// first are images that may be compressed.
var fetchClasses = []string{
	"1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1", // CT, Enhanced CT, MR, CR, DX
	"1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.128", "1.2.840.10008.5.1.4.1.1.66.4", // Secondary Capture, PET, Segmentation
	"1.2.840.10008.5.1.4.1.1.88.11", "1.2.840.10008.5.1.4.1.1.88.22", "1.2.840.10008.5.1.4.1.1.88.33", "1.2.840.10008.5.1.4.1.1.88.34", // structured reports
	"1.2.840.10008.5.1.4.1.1.88.59", "1.2.840.10008.5.1.4.1.1.88.65", "1.2.840.10008.5.1.4.1.1.88.67", // key objects, CAD, dose
	"1.2.840.10008.5.1.4.1.1.11.1", "1.2.840.10008.5.1.4.1.1.104.1", "1.2.840.10008.5.1.4.1.1.481.3", // presentation state, PDF, RT structures
}

// fetchSyntaxes are proposed one in a context each, so that whatever a peer holds
// has one. Of those that are named by --sop-class all that fit.
var fetchSyntaxes = []string{
	dataset.ExplicitVRLittleEndian, dataset.ImplicitVRLittleEndian,
	"1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.5", // lossless JPEG, JPEG 2000, JPEG-LS, RLE
	"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.81", dataset.DeflatedExplicitVRLittleEndian,
}

// fetchClient proposes storage in the role of SCP.
func fetchClient(get string, classes []string) (dimse.Client, error) {
	if classes == nil {
		classes = fetchClasses
	}
	c := dimse.Client{Contexts: []dimse.PresentationContext{dimse.QueryContext(get)}, Roles: map[string]dimse.Roles{}}
	for _, uid := range classes {
		if !dataset.ValidUID(uid) {
			return c, fmt.Errorf("--sop-class %q is not a UID", uid)
		}
		c.Roles[uid] = dimse.Roles{SCP: true}
	}
	if len(classes) >= maxContexts {
		return c, fmt.Errorf("%d SOP classes do not fit into an association: name at most %d", len(classes), maxContexts-1)
	}
	for _, syntax := range fetchSyntaxes {
		for _, uid := range classes {
			if len(c.Contexts) < maxContexts {
				c.Contexts = append(c.Contexts, dimse.PresentationContext{AbstractSyntax: uid, TransferSyntaxes: []string{syntax}})
			}
		}
	}
	return c, nil
}

// retrieve runs a C-MOVE or C-GET and shows its progress. An interrupt tells the
// peer to stop.
func (q *question) retrieve(cmd *cobra.Command, client dimse.Client,
	ask func(context.Context, *dimse.Conn, []*dataset.Element, func(dimse.SubOperations) bool) (dimse.Retrieved, error)) (dimse.Retrieved, error) {
	identifier, _, err := q.identifier(nil)
	if err != nil {
		return dimse.Retrieved{}, err
	}
	ctx := cmd.Context()
	base := q.peer.client(client.Contexts...)
	base.Roles = client.Roles
	conn, err := base.Dial(ctx, q.peer.to)
	if err != nil {
		return dimse.Retrieved{}, fmt.Errorf("no association with %s at %s: %w", q.peer.called, q.peer.to, err)
	}
	defer conn.Close()
	bar := newProgress(cmd.ErrOrStderr(), "retrieving")
	shown := 0
	done, err := ask(ctx, conn, identifier, func(n dimse.SubOperations) bool {
		if shown == 0 {
			bar.start(n.Remaining + n.Completed + n.Failed + n.Warning)
		}
		for ; shown < n.Completed+n.Failed+n.Warning; shown++ {
			bar.step()
		}
		return true
	})
	bar.finish()
	var refused *dimse.StatusError
	if errors.As(err, &refused) && done.Failed > 0 {
		err = nil // the numbers say it
	}
	if err != nil {
		return done, q.explain(err)
	}
	return done, conn.Release(ctx)
}

// fetcher writes what comes by C-GET. File names are its own: nothing from the
// wire becomes a path.
type fetcher struct {
	dir    string
	n      int
	failed error // of this side: nothing more can be written
}

// CStore is part of dimse.Handler.
func (f *fetcher) CStore(_ context.Context, req *dimse.StoreRequest) error {
	name := filepath.Join(f.dir, fmt.Sprintf("%06d.dcm", f.n+1))
	w, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err == nil {
		_, err = w.Write(dataset.AppendFileMeta(nil, req.TransferSyntaxUID, req.SOPClassUID, req.SOPInstanceUID))
		if err == nil {
			_, err = io.Copy(w, req.Data)
		}
		if err = errors.Join(err, w.Close()); err != nil {
			err = errors.Join(err, os.Remove(name))
		}
	}
	if err != nil {
		f.failed = fmt.Errorf("write %s: %w", name, err)
		return &dimse.StatusError{Status: dimse.StatusOutOfResources, Comment: "the file cannot be written"}
	}
	f.n++
	return nil
}
