//go:build !linux

package main

// ensureLoadPath is needed on Linux only.
func ensureLoadPath(string) error { return nil }
