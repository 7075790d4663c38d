package web

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"hilum/store"
)

// Quarantined is an image that was not kept because other bytes were stored
// under its UID before.
type Quarantined struct {
	SOPInstanceUID    string    `json:"sop_instance_uid"`
	SeriesInstanceUID string    `json:"series_instance_uid"` // as the image says
	KeptSeries        string    `json:"kept_series"`         // of the image that was kept
	Bytes             int64     `json:"bytes"`
	SHA256            string    `json:"sha256"`
	Source            string    `json:"source"` // calling AE title
	Received          time.Time `json:"received"`
	Reason            string    `json:"reason"`
}

func (h *Handler) checkStore(r *http.Request) (any, error) {
	report, err := h.Store.Check(r.Context())
	if err != nil {
		return nil, fmt.Errorf("check the store: %w", err)
	}
	return report, nil
}

func (h *Handler) compactStore(r *http.Request) (any, error) {
	report, err := h.Store.Compact(r.Context())
	if err != nil {
		return nil, err
	}
	return report, nil
}

// backupStore streams a backup. An error in the middle stands in its manifest,
// or there is none: whoever reads it to the end knows.
func (h *Handler) backupStore(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/x-tar")
	m, err := h.Store.Backup(r.Context(), w)
	if err != nil {
		h.Logger.Error("backup not made", "error", err)
		return
	}
	h.Logger.Info("backup made", "series", m.Series, "instances", m.Instances, "bytes", m.Bytes, "problems", len(m.Problems))
}

func (h *Handler) quarantine(*http.Request) (any, error) {
	list, err := h.Store.Quarantined()
	if err != nil {
		return nil, fmt.Errorf("list quarantine: %w", err)
	}
	views := []Quarantined{}
	for _, q := range list {
		views = append(views, Quarantined{
			SOPInstanceUID:    q.Instance.SOPInstanceUID,
			SeriesInstanceUID: q.Instance.SeriesInstanceUID,
			KeptSeries:        q.KeptSeries,
			Bytes:             q.Instance.Size,
			SHA256:            fmt.Sprintf("%x", q.Instance.SHA256),
			Source:            q.Instance.Source,
			Received:          q.Instance.Received,
			Reason:            q.Reason,
		})
	}
	return views, nil
}

// CheckStore has every image read and compared with its checksum.
func (c *Client) CheckStore(ctx context.Context) (store.CheckReport, error) {
	return get[store.CheckReport](ctx, c, "/api/store/check")
}

// CompactStore has every series file copied without its free pages.
func (c *Client) CompactStore(ctx context.Context) (store.CompactReport, error) {
	return call[store.CompactReport](ctx, c, http.MethodPost, "/api/store/compact")
}

// BackupStore opens the stream of a backup, which store.SaveBackup keeps and
// verifies; the caller closes it.
func (c *Client) BackupStore(ctx context.Context) (io.ReadCloser, error) {
	resp, err := c.do(ctx, http.MethodGet, "/api/store/backup")
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// Quarantine lists the images in quarantine.
func (c *Client) Quarantine(ctx context.Context) ([]Quarantined, error) {
	return get[[]Quarantined](ctx, c, "/api/quarantine")
}
