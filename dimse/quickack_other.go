//go:build !linux

package dimse

import "net"

// quickAck returns nil: only Linux has TCP_QUICKACK.
func quickAck(net.Conn) func() { return nil }
