//go:build !linux

package store_test

import (
	"errors"
	"testing"
)

func smallDisk(*testing.T, string) error { return errors.ErrUnsupported }
