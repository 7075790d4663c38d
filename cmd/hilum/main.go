// Command hilum is a DICOM node for chest CT.
package main

import (
	"os"

	"hilum/cmd/hilum/command"
)

func main() {
	os.Exit(command.Main(os.Args[1:], os.Stdout, os.Stderr))
}
