package dimse

import (
	"net"
	"syscall"
)

// quickAck returns a function that makes the kernel acknowledge at once what
// the peer sends next, and nil where the connection is not TCP.
//
// Many senders write a PDU's 6-byte header and its body separately with Nagle's
// algorithm on. Their kernel holds the second piece back until ours has
// acknowledged the first, which a delayed acknowledgement does 40 ms later:
// about twenty images a second whatever the machines. TCP_QUICKACK is not
// permanent (tcp(7)), so it is set again before every read.
func quickAck(c net.Conn) func() {
	tcp, ok := tcpConn(c)
	if !ok {
		return nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil
	}
	set := func(fd uintptr) {
		// A failure costs speed only, and a closed socket shows in the read.
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_QUICKACK, 1)
	}
	return func() { _ = raw.Control(set) } // as above
}
