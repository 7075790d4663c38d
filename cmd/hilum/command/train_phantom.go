package command

import "github.com/spf13/cobra"

// newTrainPhantomCommand is `hilum phantom` where a person looks for training
// data.
func newTrainPhantomCommand() *cobra.Command { return newPhantomCommand() }
