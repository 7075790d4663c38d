// Package python holds a plugin that is not written in Go; its test runs the suite
// of every plugin on it.
package python
