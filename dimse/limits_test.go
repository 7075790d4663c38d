package dimse_test

import (
	"fmt"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"hilum/dimse"
	"hilum/dimse/dimsetest"
	"hilum/dimse/pdu"
)

// fromConn is a connection that comes from an address of the test's choice.
type fromConn struct {
	net.Conn
	from net.Addr
}

func (c fromConn) RemoteAddr() net.Addr { return c.from }

// fromListener makes every connection come from the address that from gives it.
type fromListener struct {
	*dimsetest.Listener
	from func() string
}

func (l *fromListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	a, err := net.ResolveTCPAddr("tcp", l.from())
	if err != nil {
		return nil, err
	}
	return fromConn{c, a}, nil
}

// TestAssociationsPerAddress: one address gets its share, and the others theirs.
func TestAssociationsPerAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		address := "10.0.0.1:1"
		l := dimsetest.NewListener()
		serve(t, &dimse.Server{MaxAssociations: 5, MaxAssociationsPerAddress: 2}, &fromListener{l, func() string { return address }})
		limit := &pdu.AssociateRJ{Result: pdu.RejectedTransient, Source: pdu.RejectSourcePresentation, Reason: pdu.RejectLimitExceeded}
		try := func(from string, accepted bool) *dimsetest.Peer {
			t.Helper()
			address = from
			p := dial(t, l)
			p.SendPDU(request())
			if accepted {
				p.ExpectType(pdu.TypeAssociateAC)
			} else {
				p.Expect(limit)
			}
			return p
		}
		first := try("10.0.0.1:1", true)
		try("10.0.0.1:2", true)
		try("10.0.0.1:3", false)
		try("[::ffff:10.0.0.1]:4", false) // the same peer in an IPv6 socket
		try("10.0.0.2:1", true)
		try("[fd00::1]:1", true)
		try("[fd00::2]:1", true) // of the same network
		try("[fd00::3]:1", false)
		try("10.0.0.3:1", false) // five in all
		first.SendPDU(&pdu.ReleaseRQ{})
		first.ExpectType(pdu.TypeReleaseRP)
		synctest.Wait()
		try("10.0.0.1:5", true)
	})
}

// TestConnectionsPerAddress: connections that ask for nothing push out those of
// their own address, not those of others.
func TestConnectionsPerAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		address := "10.0.0.2:1"
		l := dimsetest.NewListener()
		serve(t, &dimse.Server{MaxAssociations: 100, MaxAssociationsPerAddress: 2}, &fromListener{l, func() string { return address }})
		honest := dial(t, l)
		synctest.Wait()
		address = "10.0.0.1:1"
		var idle []*dimsetest.Peer
		for range 6 {
			idle = append(idle, dial(t, l))
			synctest.Wait()
		}
		idle[0].ExpectClosed()
		idle[1].ExpectClosed()
		idle[5].Associate(request())
		honest.Associate(request())
	})
}

// TestFailuresPerAddress: an address that fails too often is not heard until
// its minute is over; others are, and so is whoever fails seldom.
func TestFailuresPerAddress(t *testing.T) {
	const limit = 3
	wrongTitle := request()
	wrongTitle.CalledAETitle = title("OTHER")
	failures := map[string]func(p *dimsetest.Peer){
		"rejected":   func(p *dimsetest.Peer) { p.SendPDU(wrongTitle); p.ExpectType(pdu.TypeAssociateRJ) },
		"not DICOM":  func(p *dimsetest.Peer) { p.Send([]byte("GET / HTTP/1.1\r\n\r\n")); p.ExpectType(pdu.TypeAbort) },
		"malformed":  func(p *dimsetest.Peer) { p.Send([]byte{1, 0, 0, 0, 0, 1, 0}); p.ExpectType(pdu.TypeAbort) },
		"no request": func(p *dimsetest.Peer) { p.SendPDU(&pdu.ReleaseRQ{}); p.ExpectType(pdu.TypeAbort) },
	}
	harmless := map[string]func(p *dimsetest.Peer){
		"associated":    func(p *dimsetest.Peer) { p.Associate(request()); p.SendPDU(&pdu.Abort{}); p.ExpectClosed() },
		"closed":        func(p *dimsetest.Peer) { p.Close() },
		"changed minds": func(p *dimsetest.Peer) { p.SendPDU(&pdu.Abort{}); p.ExpectClosed() },
	}
	play := func(t *testing.T, fail func(p *dimsetest.Peer), closed bool) {
		synctest.Test(t, func(t *testing.T) {
			address := "10.0.0.1:1"
			l := dimsetest.NewListener()
			serve(t, &dimse.Server{MaxFailuresPerAddress: limit}, &fromListener{l, func() string { return address }})
			for range limit {
				fail(dial(t, l))
				synctest.Wait()
			}
			if p := dial(t, l); closed {
				p.ExpectClosed()
			} else {
				p.Associate(request())
			}
			address = "10.0.0.2:1"
			associate(t, l)
			address = "10.0.0.1:1"
			time.Sleep(time.Minute) // fake time
			associate(t, l)
		})
	}
	for name, fail := range failures {
		t.Run(name, func(t *testing.T) { play(t, fail, true) })
	}
	for name, fail := range harmless {
		t.Run(name, func(t *testing.T) { play(t, fail, false) })
	}
	t.Run("ARTIM", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l := listen(t, &dimse.Server{MaxFailuresPerAddress: 1, ARTIM: time.Second})
			dial(t, l).ExpectClosed()
			synctest.Wait()
			dial(t, l).ExpectClosed()
		})
	})
}

// TestManyAddresses: what is counted for addresses that are gone is forgotten,
// and an address with an association keeps its count through that.
func TestManyAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		l := dimsetest.NewListener()
		serve(t, &dimse.Server{MaxAssociationsPerAddress: 1, MaxFailuresPerAddress: 1}, &fromListener{l, func() string { return fmt.Sprintf("10.0.%d.%d:1", n>>8, n&255) }})
		associate(t, l)
		for n = 1; n < 5000; n++ { // each fails once
			conn, err := l.Dial()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Write([]byte{0}); err != nil {
				t.Fatal(err)
			}
			if _, err := pdu.NewReader(conn, 1<<16).Next(); err != nil {
				t.Fatal(err)
			}
			_ = conn.Close()
			synctest.Wait()
		}
		n = 0
		p := dial(t, l)
		p.SendPDU(request())
		p.ExpectType(pdu.TypeAssociateRJ)
	})
}
