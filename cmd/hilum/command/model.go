package command

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"hilum/models"
)

func newModelCommand() *cobra.Command {
	return group("model", "Show and verify models", newModelListCommand(), newModelVerifyCommand())
}

// modelView is a model in `hilum model list --json`.
type modelView struct {
	Folder  string `json:"folder"`
	Name    string `json:"name"`
	Version string `json:"version"`
	Task    string `json:"task"`
	SHA256  string `json:"sha256"`
	Reason  string `json:"reason"` // why it cannot be used, "" if it can
}

func newModelListCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list [FOLDER]",
		Short: "List the models in a folder (default: models)",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			root := "models"
			if len(args) == 1 {
				root = args[0]
			}
			views, err := listModels(root)
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(cmd.OutOrStdout(), views)
			}
			t := newTable(cmd.OutOrStdout(), "FOLDER", "NAME", "VERSION", "TASK", "SHA256", "PROBLEM")
			for _, v := range views {
				t.row(v.Folder, v.Name, v.Version, v.Task, v.SHA256, v.Reason)
			}
			return t.flush()
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func listModels(root string) ([]modelView, error) {
	entries, err := os.ReadDir(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no folder %s: name the folder that holds the models", root)
	}
	if err != nil {
		return nil, err
	}
	views := []modelView{}
	for _, e := range entries {
		dir := filepath.Join(root, e.Name())
		if _, err := os.Stat(filepath.Join(dir, models.ManifestFile)); err != nil {
			continue
		}
		v := modelView{Folder: dir}
		if m, err := models.Verify(dir, ""); err != nil {
			v.Reason = err.Error()
		} else {
			v.Name, v.Version, v.Task, v.SHA256 = m.Name, m.Version, m.Task, m.SHA256
		}
		views = append(views, v)
	}
	return views, nil
}

func newModelVerifyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "verify FOLDER…",
		Short: "Check the manifest and the checksum of models",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var errs []error
			for _, dir := range args {
				m, err := models.Verify(dir, "")
				if err != nil {
					errs = append(errs, err)
					continue
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s: good. %s %s (%s), sha256 %s\n", dir, m.Name, m.Version, m.Task, m.SHA256)
			}
			return errors.Join(errs...)
		},
	}
}
