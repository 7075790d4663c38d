package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/grailbio/go-dicom/dicomtag"
	"github.com/spf13/cobra"

	"hilum/dimse"
	"hilum/dimse/dataset"
)

func newSendCommand(g *global) *cobra.Command {
	p := &peer{}
	s := &sender{}
	cmd := &cobra.Command{
		Use:   "send FOLDER…",
		Short: "Send DICOM files to a peer by C-STORE",
		Long: `Send every DICOM file of the folders (and of the folders in them) to a peer by
C-STORE, in the transfer syntax that the file has. Files that are not DICOM are
named and skipped.

` + exitHelp,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := p.resolve(g); err != nil {
				return err
			}
			s.peer, s.progress = p, newProgress(cmd.ErrOrStderr(), "sending")
			s.skipped = func(name string, reason error) {
				s.progress.clear()
				fmt.Fprintf(cmd.ErrOrStderr(), "skipped %s: %v\n", name, reason)
			}
			sum, err := s.send(cmd.Context(), args)
			s.progress.finish()
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s (%s) sent to %s in %s, %.0f images/s\n", number(sum.sent, "image"), size(sum.bytes), p.called,
				sum.elapsed.Round(time.Millisecond), float64(sum.sent)/max(sum.elapsed.Seconds(), 1e-9))
			if sum.skipped > 0 {
				return &exitError{exitSkipped, fmt.Errorf("%s skipped", number(sum.skipped, "file"))}
			}
			return nil
		},
	}
	p.addFlags(cmd)
	cmd.Flags().IntVar(&s.associations, "associations", 2, "parallel associations")
	return cmd
}

// sender sends folders to a peer over several associations.
type sender struct {
	peer         *peer
	associations int
	progress     *progress
	skipped      func(name string, reason error)
}

// sendSummary is what became of the files.
type sendSummary struct {
	sent, skipped int
	bytes         int64
	elapsed       time.Duration
}

// sendFile is one DICOM file to be sent.
type sendFile struct {
	name                                  string
	size                                  int64
	offset                                int64 // of the data set
	sopClass, sopInstance, transferSyntax string
}

// maxContexts is the most presentation contexts an association can propose
// (PS3.8 9.3.2.2: odd ids 1 to 255).
const maxContexts = 128

// dialAttempts is how often an association that broke is opened again.
const dialAttempts = 3

func (s *sender) send(ctx context.Context, folders []string) (sendSummary, error) {
	var sum sendSummary
	if s.associations < 1 {
		return sum, usage(errors.New("--associations must be at least 1"))
	}
	files, skipped, err := s.find(folders)
	sum.skipped = skipped
	if err != nil {
		return sum, err
	}
	if len(files) == 0 {
		return sum, fmt.Errorf("no DICOM file to send in %v", folders)
	}
	contexts, err := contextsFor(files)
	if err != nil {
		return sum, err
	}
	s.progress.start(len(files))

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	queue := make(chan sendFile)
	go func() {
		defer close(queue)
		for _, f := range files {
			select {
			case queue <- f:
			case <-ctx.Done():
				return
			}
		}
	}()
	begin := time.Now()
	var group sync.WaitGroup
	var mu sync.Mutex // guards sum
	for range min(s.associations, len(files)) {
		group.Go(func() {
			err := s.associate(ctx, contexts, queue, func(f sendFile, reason error) {
				mu.Lock()
				defer mu.Unlock()
				if reason != nil {
					sum.skipped++
					s.skipped(f.name, reason)
				} else {
					sum.sent++
					sum.bytes += f.size
				}
				s.progress.step()
			})
			if err != nil {
				cancel(err)
			}
		})
	}
	group.Wait()
	sum.elapsed = time.Since(begin)
	if err := context.Cause(ctx); err != nil {
		return sum, fmt.Errorf("%w (%d of %s sent)", err, sum.sent, number(len(files), "file"))
	}
	return sum, nil
}

// find reads who the files under the folders are, and no more of them.
func (s *sender) find(folders []string) (files []sendFile, skipped int, err error) {
	for _, folder := range folders {
		err := filepath.WalkDir(folder, func(name string, e fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if e.IsDir() {
				return nil
			}
			info, err := os.Stat(name) // a link to a file counts as the file
			if err != nil || !info.Mode().IsRegular() {
				skipped++
				s.skipped(name, errors.New("not a file"))
				return nil
			}
			f, err := dataset.ReadIdentity(name)
			if err == nil && (!dataset.ValidUID(f.Header.String(dicomtag.SOPClassUID)) || !dataset.ValidUID(f.Header.String(dicomtag.SOPInstanceUID))) {
				err = errors.New("it has no SOP Class UID or no SOP Instance UID")
			}
			if err != nil {
				skipped++
				s.skipped(name, err)
				return nil
			}
			files = append(files, sendFile{
				name: name, size: info.Size(), offset: f.DataSetOffset, transferSyntax: f.TransferSyntaxUID,
				sopClass: f.Header.String(dicomtag.SOPClassUID), sopInstance: f.Header.String(dicomtag.SOPInstanceUID),
			})
			return nil
		})
		if err != nil {
			return nil, skipped, fmt.Errorf("read %s: %w", folder, err)
		}
	}
	return files, skipped, nil
}

// contextsFor proposes each pair of SOP class and transfer syntax that the
// files have, one a context, so that nothing needs to be converted.
func contextsFor(files []sendFile) ([]dimse.PresentationContext, error) {
	type pair struct{ class, syntax string }
	seen := map[pair]bool{}
	var contexts []dimse.PresentationContext
	for _, f := range files {
		p := pair{f.sopClass, f.transferSyntax}
		if !seen[p] {
			seen[p] = true
			contexts = append(contexts, dimse.PresentationContext{AbstractSyntax: p.class, TransferSyntaxes: []string{p.syntax}})
		}
	}
	if len(contexts) > maxContexts {
		return nil, fmt.Errorf("the files have %d pairs of SOP class and transfer syntax, an association carries %d: send fewer folders at once", len(contexts), maxContexts)
	}
	return contexts, nil
}

// window is how many images may wait for their answers on one association, where
// the peer allows it.
const window = 16

// todo hands out what is to be sent on one association: what broke with an
// earlier one first.
type todo struct {
	queue <-chan sendFile

	mu    sync.Mutex // guards what follows
	again []attempt
}

// attempt is a file and how often an association broke while it was sent.
type attempt struct {
	sendFile
	tries int
}

func (t *todo) take() (attempt, bool) {
	t.mu.Lock()
	if n := len(t.again); n > 0 {
		a := t.again[n-1]
		t.again = t.again[:n-1]
		t.mu.Unlock()
		return a, true
	}
	t.mu.Unlock()
	f, ok := <-t.queue
	return attempt{sendFile: f}, ok
}

// lost is an association that broke.
type lost struct {
	file attempt // of those under way the one that was tried most
	err  error   // what broke it
}

// associate sends files from the queue over one association, which is opened
// again when it breaks. An object that the peer refuses is reported; the
// association goes on.
func (s *sender) associate(ctx context.Context, contexts []dimse.PresentationContext, queue <-chan sendFile, report func(sendFile, error)) error {
	t := &todo{queue: queue}
	for {
		first, ok := t.take()
		if !ok {
			return nil
		}
		client := s.peer.client(contexts...)
		client.Window = window
		conn, err := client.Dial(ctx, s.peer.to)
		if err != nil {
			return fmt.Errorf("no association with %s at %s: %w", s.peer.called, s.peer.to, err)
		}
		broken := s.stream(ctx, conn, first, t, report)
		if broken == nil {
			if err := conn.Release(ctx); err != nil {
				return fmt.Errorf("release the association with %s: %w", s.peer.called, err)
			}
			return nil
		}
		_ = conn.Abort() // it is broken; what Abort says adds nothing
		if broken.file.tries >= dialAttempts || ctx.Err() != nil {
			return fmt.Errorf("send %s to %s at %s: %w", broken.file.name, s.peer.called, s.peer.to, broken.err)
		}
	}
}

// stream sends until nothing is left, nil, or the association breaks. Several
// files are under way: the next one is read from the disk while the last one
// waits for its answer, also where the peer takes one after the other.
func (s *sender) stream(ctx context.Context, conn *dimse.Conn, first attempt, t *todo, report func(sendFile, error)) *lost {
	var mu sync.Mutex // guards broken
	var broken *lost
	ended := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return broken != nil
	}
	work := func(a attempt) {
		for ok := true; ok; a, ok = t.take() {
			err := sendOne(ctx, conn, a.sendFile)
			var refused *dimse.StatusError
			if err == nil || errors.As(err, &refused) || errors.Is(err, dimse.ErrNoContext) {
				report(a.sendFile, err)
				if ended() {
					return
				}
				continue
			}
			a.tries++
			t.mu.Lock()
			t.again = append(t.again, a)
			t.mu.Unlock()
			mu.Lock()
			defer mu.Unlock()
			if broken == nil {
				broken = &lost{file: a, err: err}
			} else if a.tries > broken.file.tries {
				broken.file = a
			}
			return
		}
	}
	var group sync.WaitGroup
	group.Go(func() { work(first) })
	for range window - 1 {
		group.Go(func() {
			if a, ok := t.take(); ok {
				work(a)
			}
		})
	}
	group.Wait()
	return broken
}

// preload is up to which size a file is read before its turn on the association.
// A larger one is read while it is sent.
const preload = 2 << 20

var preloaded = sync.Pool{New: func() any { return new(bytes.Buffer) }}

func sendOne(ctx context.Context, conn *dimse.Conn, f sendFile) error {
	r, err := os.Open(f.name)
	if err != nil {
		return err
	}
	defer r.Close()
	if _, err := r.Seek(f.offset, io.SeekStart); err != nil {
		return err
	}
	data := io.Reader(r)
	if f.size-f.offset <= preload {
		b := preloaded.Get().(*bytes.Buffer)
		defer preloaded.Put(b)
		b.Reset()
		b.Grow(int(f.size-f.offset) + bytes.MinRead)
		if _, err := b.ReadFrom(io.LimitReader(r, f.size-f.offset)); err != nil {
			return fmt.Errorf("read %s: %w", f.name, err)
		}
		data = bytes.NewReader(b.Bytes())
	}
	_, err = conn.Store(ctx, f.sopClass, f.sopInstance, f.transferSyntax, data)
	return err
}
