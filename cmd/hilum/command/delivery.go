package command

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"hilum/node/web"
)

func newDeliveryCommand(g *global) *cobra.Command {
	var destination string
	return group("delivery", "Show and retry the sending of results",
		listing[[]web.Delivery]{
			use:   "list",
			short: "List the results sent and to be sent, oldest first",
			ask: func(ctx context.Context, c *web.Client, _ []string) ([]web.Delivery, error) {
				return c.Deliveries(ctx)
			},
			show: func(out io.Writer, deliveries []web.Delivery) error {
				t := newTable(out, "ID", "DESTINATION", "KIND", "STATE", "ATTEMPTS", "UPDATED", "OBJECT", "REASON")
				for _, d := range deliveries {
					t.row(d.ID, d.Destination, d.Kind, d.State, d.Attempts, clock(d.Updated), d.SOPInstanceUID, d.Reason)
				}
				return t.flush()
			},
		}.command(g),
		listing[web.Delivery]{
			use:   "retry ID",
			short: "Queue a delivery again",
			args:  cobra.ExactArgs(1),
			ask: func(ctx context.Context, c *web.Client, args []string) (web.Delivery, error) {
				return c.RetryDelivery(ctx, args[0])
			},
			show: func(out io.Writer, d web.Delivery) error {
				_, err := fmt.Fprintf(out, "delivery %s is %s\n", d.ID, d.State)
				return err
			},
		}.command(g),
		listing[[]web.Delivery]{
			use:   "retry-all",
			short: "Queue every delivery again that is dead or waits for a retry",
			ask: func(ctx context.Context, c *web.Client, _ []string) ([]web.Delivery, error) {
				return c.RetryDeliveries(ctx, destination)
			},
			show: func(out io.Writer, deliveries []web.Delivery) error {
				_, err := fmt.Fprintf(out, "deliveries queued again: %d\n", len(deliveries))
				return err
			},
			flags: func(cmd *cobra.Command) {
				cmd.Flags().StringVar(&destination, "destination", "", "only those to the destination with this `NAME`")
			},
		}.command(g),
	)
}
