package command

import (
	"github.com/spf13/cobra"
)

// newTrainCommand holds the commands that turn LUNA16 into models; one file
// each, train_<verb>.go.
func newTrainCommand(g *global) *cobra.Command {
	return group("train", "Prepare data, train networks, measure models",
		newTrainConvertCommand(),
		newTrainPrepareCommand(),
		newTrainLabelsCommand(),
		newTrainEvaluateCommand(),
		newTrainPhantomCommand(),
		newTrainPredictCommand(),
		newTrainDetectorCommand(),
		newTrainClassifierCommand(),
		newTrainExportCommand(),
	)
}
